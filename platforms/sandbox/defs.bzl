"""`sandbox`: the run-time files of an accelerator as one tree; `sandbox_lock`: what refreshes its lock."""

load("@rules_python//python:py_binary.bzl", "py_binary")
load("//tools/pytest:defs.bzl", "pytest_test")

def _sandbox_impl(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name)
    manifest = ctx.actions.declare_file(ctx.label.name + ".manifest.json")
    args = ctx.actions.args()
    args.add("--recipe", ctx.file.recipe)
    locks = [ctx.file.lock, ctx.file._debian_lock]
    args.add_all(locks, before_each = "--lock")
    args.add("--platform", ctx.attr.platform)
    args.add("--variant", ctx.attr.variant)
    args.add_all(ctx.files.packages, format_each = "--package=%s")
    args.add("--patchelf", ctx.file._patchelf)
    args.add("--manifest", manifest)
    args.add_all([tree], before_each = "--out", expand_directories = False)
    ctx.actions.run(
        executable = ctx.executable._assemble,
        arguments = [args],
        inputs = depset(
            locks + [ctx.file.recipe, ctx.file._patchelf] + ctx.files.packages,
            transitive = [ctx.attr._patchelf_files[DefaultInfo].files],
        ),
        outputs = [tree, manifest],
        mnemonic = "Sandbox",
        progress_message = "Assembling the sandbox %{label}",
    )
    return [
        DefaultInfo(files = depset([tree]), runfiles = ctx.runfiles([tree])),
        OutputGroupInfo(manifest = depset([manifest])),
    ]

_sandbox = rule(
    implementation = _sandbox_impl,
    attrs = {
        "lock": attr.label(mandatory = True, allow_single_file = True),
        "packages": attr.label_list(mandatory = True, allow_files = True, doc = "wheels and Debian packages"),
        "platform": attr.string(mandatory = True),
        "recipe": attr.label(mandatory = True, allow_single_file = True, doc = "the file list"),
        "variant": attr.string(default = "full"),
        "_assemble": attr.label(default = ":assemble", executable = True, cfg = "exec"),
        "_debian_lock": attr.label(default = "//third_party/debian:lock.json", allow_single_file = True),
        "_patchelf": attr.label(default = ":patchelf", allow_single_file = True, cfg = "exec"),
        "_patchelf_files": attr.label(default = ":patchelf_files", cfg = "exec"),
    },
)

def sandbox(name, packages, **kwargs):
    """The tree `bin/`, `lib/`, ... of an accelerator's run-time files: one directory; output group `manifest`: its list.

    Args:
      name: name of the target, and of the directory
      packages: labels of the packages; only these are downloaded
      **kwargs: see the rule
    """
    _sandbox(
        name = name,
        lock = "lock.json",
        packages = packages,
        platform = select(
            {
                Label("//platforms:on_linux_amd64"): "linux_amd64",
                Label("//platforms:on_linux_arm64"): "linux_arm64",
            },
            no_match_error = "there are sandboxes for linux_amd64 and linux_arm64 only",
        ),
        recipe = "sandbox.toml",
        **kwargs
    )

def sandbox_lock(platforms, glibc = 28):
    """The target `:lock`, which writes lock.json from requirements.in with pip.

    Args:
      platforms: names in //platforms
      glibc: wheels for glibc up to 2.GLIBC are taken
    """
    py_binary(
        name = "lock",
        srcs = [Label("//third_party/pypi:lock.py")],
        args = [
            "--closed",
            "--folder=" + native.package_name(),
            "--glibc={}".format(glibc),
            "--platforms=" + ",".join(platforms),
        ],
        main = Label("//third_party/pypi:lock.py"),
        visibility = [Label("//tools/lint:__pkg__")],
        deps = ["@pip"],
    )

def sandbox_built_test(compiles):
    """The target `:sandbox_test`, run by name: `:sandbox` is what the kept manifest says.

    Args:
      compiles: whether its plugin can compile for described devices
    """
    files = ["built_test.py"] + (["compiles_test.py"] if compiles else [])
    pytest_test(
        name = "sandbox_test",
        srcs = [Label("//platforms/sandbox:" + file) for file in files],
        data = [":sandbox"] + native.glob(["manifests/*.json"]),
        env = {"SANDBOX": native.package_name().split("/")[-1]},
        tags = ["manual"],
        target_compatible_with = ["@platforms//os:linux"],
        visibility = [Label("//tools/lint:__pkg__")],
        deps = [
            Label("//platforms/sandbox:lib"),
            Label("//platforms/sandbox:manifest"),
            "@pypi//jax",
            "@pypi//numpy",
        ],
    )
