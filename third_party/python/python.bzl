"""Hermetic Python 3.13 for Linux from locked Debian packages, and the system's Python on macOS."""

load("//third_party/debian:deb.bzl", "ENVIRON", "locked", "unpack")

# Debian's name of the architecture -> (GNU's, name of the dynamic loader)
_ARCHITECTURES = {
    "amd64": ("x86_64-linux-gnu", "ld-linux-x86-64.so.2"),
    "arm64": ("aarch64-linux-gnu", "ld-linux-aarch64.so.1"),
}

# Parts of the packages that no program here uses, or that would reach outside the tree.
_UNUSED = [
    "etc",
    "usr/lib/binfmt.d",
    "usr/lib/python3.13/EXTERNALLY-MANAGED",
    "usr/lib/python3.13/sitecustomize.py",  # a link to /etc
    "usr/lib/python3.13/test",
    "usr/lib/ssl",  # links to /etc
    "usr/lib64",
    "usr/sbin",
    "usr/share",
    "var",
]

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files(["usr/bin/python3"])

filegroup(
    name = "files",
    srcs = glob(["usr/bin/python3*", "usr/lib/**"]),
)
"""

def _python_linux_impl(rctx):
    gnu, loader = _ARCHITECTURES[rctx.attr.arch]
    unpack(rctx, rctx.attr.packages)
    for path in _UNUSED + ["usr/lib/{}/{}".format(gnu, name) for name in ["engines-3", "gconv", "ossl-modules"]]:
        rctx.delete(path)
    rctx.template("usr/bin/python3", rctx.attr._launcher, {"%gnu%": gnu, "%loader%": loader})
    rctx.symlink(rctx.attr._sitecustomize, "sitecustomize.py")
    rctx.file("usr/lib/python3.13/sitecustomize.py", rctx.read(rctx.attr._sitecustomize))
    rctx.delete("sitecustomize.py")

    # Bytecode depends on the version alone, so any interpreter of this version may make it.
    compiler = rctx.path(rctx.attr.compiler) if rctx.attr.compiler else rctx.path("usr/bin/python3")
    precompile(rctx, compiler, rctx.attr._precompile, "usr/lib/python3.13")
    rctx.file("BUILD.bazel", _BUILD)

def precompile(rctx, python, script, folder):
    """Writes bytecode beside each module, so that no program has to compile it at every start.

    Args:
      rctx: repository_ctx
      python: path of the interpreter
      script: label of precompile.py
      folder: path relative to the repository's root
    """
    result = rctx.execute([python, "-I", rctx.path(script), folder], timeout = 1800)
    if result.return_code:
        fail("{} could not compile the modules in {}: {}{}".format(python, folder, result.stdout, result.stderr))

_python_linux = repository_rule(
    implementation = _python_linux_impl,
    attrs = {
        "arch": attr.string(mandatory = True, values = _ARCHITECTURES.keys()),
        "packages": attr.string_list(mandatory = True, doc = "from debian's `locked`"),
        "compiler": attr.label(doc = "interpreter that runs on this host; absent: the tree's own"),
        "_launcher": attr.label(default = ":launcher.sh"),
        "_precompile": attr.label(default = ":precompile.py"),
        "_sitecustomize": attr.label(default = ":sitecustomize.py"),
    },
    environ = ENVIRON,
)

def _python_macos_impl(rctx):
    # On another host this repository only completes the build graph.
    python = "/usr/bin/python3"
    if rctx.os.name.startswith("mac"):
        python = rctx.which("python3.13")
        if not python:
            fail("no python3.13 on PATH: on macOS the system's Python is used. Install Python 3.13, for instance with Homebrew.")
    rctx.file("usr/bin/python3", "#!/bin/sh\nexec '{}' \"$@\"\n".format(python))
    rctx.file("BUILD.bazel", _BUILD)

_python_macos = repository_rule(implementation = _python_macos_impl, environ = ["PATH"])

def host_platform(module_ctx):
    """Name in //platforms of the machine that Bazel runs on.

    Args:
      module_ctx: module_ctx
    Returns:
      linux_amd64, linux_arm64 or macos_arm64
    """
    os = "macos" if module_ctx.os.name.startswith("mac") else module_ctx.os.name
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(module_ctx.os.arch, module_ctx.os.arch)
    host = "{}_{}".format(os, arch)
    if host not in ["linux_amd64", "linux_arm64", "macos_arm64"]:
        fail("this host is {}: expected linux_amd64, linux_arm64 or macos_arm64".format(host))
    return host

def _python_impl(module_ctx):
    host = host_platform(module_ctx)
    for arch in _ARCHITECTURES:
        _python_linux(
            name = "python_linux_" + arch,
            arch = arch,
            packages = locked(module_ctx, "python", arch),
            compiler = None if host == "linux_" + arch else "@python_{}//:usr/bin/python3".format(host),
        )
    _python_macos(name = "python_macos_arm64")

python = module_extension(
    implementation = _python_impl,
    doc = "Repositories `python_linux_amd64`, `python_linux_arm64`, `python_macos_arm64`, each with `usr/bin/python3`.",
)
