"""The module extension that makes `@zig_sdk`.

The root module says where zig is, and registers the toolchains that it wants:

    toolchains = use_extension("@hermetic_cc_toolchain//toolchain:ext.bzl", "toolchains")
    toolchains.zig(binary = "@pypi_host_ziglang//:ziglang/zig")
    use_repo(toolchains, "zig_sdk")
    register_toolchains("@zig_sdk//toolchain:linux_amd64_gnu.2.28")

Optional, for `--features=asan`, `tsan` and `ubsan`, since zig does not bring the sanitizers' run-time libraries:

    toolchains.sanitizers(target = "x86_64-linux-gnu.2.28", runtime = "@debian_sanitizers_amd64//:files")
"""

load("//toolchain/private:repositories.bzl", "zig_host", "zig_sdk")

def _toolchains_impl(module_ctx):
    binaries = [
        (module, tag.binary)
        for module in module_ctx.modules
        for tag in module.tags.zig
        if module.is_root
    ]
    if len(binaries) != 1:
        fail("expected one `toolchains.zig(binary = ...)` in the root module, given {}: ".format(len(binaries)) +
             "name the zig binary (with its lib folder beside it) that runs on the host, once, in MODULE.bazel")
    sanitizers = {
        tag.target: str(tag.runtime)
        for module in module_ctx.modules
        for tag in module.tags.sanitizers
        if module.is_root
    }
    zig_host(name = "zig_host", binary = binaries[0][1], sanitizers = sanitizers)
    zig_sdk(name = "zig_sdk")

_zig = tag_class(
    doc = "The zig distribution that the toolchains are made of. Only the root module's counts.",
    attrs = {
        "binary": attr.label(
            mandatory = True,
            doc = "zig for the host, in the folder of its `lib`, as the `ziglang` wheel holds it.",
        ),
    },
)

_sanitizers = tag_class(
    doc = "Run-time libraries of the sanitizers for a target. Only the root module's counts.",
    attrs = {
        "runtime": attr.label(
            mandatory = True,
            doc = "Files of LLVM's compiler-rt, of the major version of zig's clang: `.../lib/linux/libclang_rt.*`.",
        ),
        "target": attr.string(mandatory = True, doc = "The target's zig name."),
    },
)

toolchains = module_extension(
    doc = "Makes `@zig_sdk`: toolchains, platforms and libc constraints.",
    implementation = _toolchains_impl,
    tag_classes = {"sanitizers": _sanitizers, "zig": _zig},
)
