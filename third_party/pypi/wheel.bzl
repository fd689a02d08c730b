"""One locked wheel, downloaded by pip and unpacked, as a repository."""

load("//third_party/debian:deb.bzl", "ENVIRON", "unpack")
load("//third_party/python:python.bzl", "precompile")

# pip's configuration: a failed download is tried again after a change.
_ENVIRON = ["HTTPS_PROXY", "PIP_CERT", "PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_PROXY", "SSL_CERT_FILE"]

_BUILD = """\
load("@rules_python//python:py_library.bzl", "py_library")

package(default_visibility = ["//visibility:public"])

py_library(
    name = "{name}",
    srcs = glob(["**/*.py"], allow_empty = True),
    data = glob(["**"], exclude = ["**/*.py", "BUILD.bazel", "REPO.bazel"]),
    imports = ["."],
    deps = {deps},
)

filegroup(
    name = "files",
    srcs = glob(["**"], exclude = ["BUILD.bazel", "REPO.bazel"]),
)
"""

def _fetch(rctx, python, more = []):
    pip = ["--pip", rctx.path(rctx.attr.pip).dirname] if rctx.attr.pip else []
    rctx.report_progress("Downloading {} ({} MB) with pip".format(rctx.attr.file, rctx.attr.size // 1000000))
    result = rctx.execute(
        [python, "-I", rctx.path(rctx.attr._fetch), "--requirement", rctx.attr.requirement, "--file", rctx.attr.file] +
        ["--sha256", rctx.attr.sha256] + pip + more,
        timeout = 3600,
        # TMPDIR: pip unpacks what it downloads there; the machine's may be small.
        environment = {"TMPDIR": str(rctx.path("."))},
        quiet = True,
    )
    if result.return_code:
        fail(result.stderr)

def _wheel_impl(rctx):
    python = rctx.path(rctx.attr.python)
    _fetch(rctx, python)
    precompile(rctx, python, rctx.attr._precompile, ".")
    rctx.file("BUILD.bazel", _BUILD.format(name = rctx.attr.package, deps = [str(d) for d in rctx.attr.requires]))

_ATTRS = {
    "file": attr.string(mandatory = True, doc = "file name"),
    "pip": attr.label(doc = "pip/__main__.py of the pip to run; absent: the interpreter's own pip"),
    "python": attr.label(mandatory = True, doc = "interpreter for this host"),
    "requirement": attr.string(mandatory = True, doc = "NAME==VERSION"),
    "sha256": attr.string(mandatory = True),
    "size": attr.int(mandatory = True, doc = "bytes, to show"),
    "_fetch": attr.label(default = ":fetch.py"),
}

wheel = repository_rule(
    implementation = _wheel_impl,
    attrs = _ATTRS | {
        "package": attr.string(mandatory = True, doc = "name of the py_library"),
        "requires": attr.string_list(doc = "labels of the packages it depends on"),
        "_precompile": attr.label(default = "//third_party/python:precompile.py"),
    },
    environ = _ENVIRON,
)

def _wheel_file_impl(rctx):
    _fetch(rctx, rctx.path(rctx.attr.python), ["--keep", "--lock", rctx.attr.lock])
    rctx.file("BUILD.bazel", """\
filegroup(
    name = "wheel",
    srcs = ["{}"],
    visibility = ["//visibility:public"],
)
""".format(rctx.attr.file))

wheel_file = repository_rule(
    implementation = _wheel_file_impl,
    attrs = _ATTRS | {"lock": attr.string(mandatory = True, doc = "the target that refreshes its lock")},
    environ = _ENVIRON,
    doc = "A repository with one wheel as it is, `:wheel`.",
)

def _pip_impl(rctx):
    unpack(rctx, rctx.attr.packages)
    [wheel] = [w for w in rctx.path("usr/share/python-wheels").readdir(watch = "no") if w.basename.startswith("pip-")]
    rctx.symlink(wheel, "usr/pip.zip")
    rctx.extract("usr/pip.zip")
    rctx.delete("usr")
    rctx.file("pip/_vendor/certifi/core.py", rctx.read(rctx.attr._certifi))
    precompile(rctx, rctx.path(rctx.attr.python), rctx.attr._precompile, ".")
    rctx.file("BUILD.bazel", _BUILD.format(name = "pip", deps = []))

pip = repository_rule(
    implementation = _pip_impl,
    attrs = {
        "packages": attr.string_list(mandatory = True, doc = "from debian's `locked`"),
        "python": attr.label(mandatory = True, doc = "interpreter for this host"),
        "_certifi": attr.label(default = ":certifi.py"),
        "_precompile": attr.label(default = "//third_party/python:precompile.py"),
    },
    environ = ENVIRON,
    doc = "pip, from Debian's package of its wheel: what downloads the wheels cannot be one of them.",
)
