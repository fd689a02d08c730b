"""XLA's FFI headers, which jaxlib's wheel carries, for C++ targets."""

load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")

_FOLDER = "/jaxlib/include/"

def _xla_ffi_headers_impl(ctx):
    files = ctx.attr.wheel[DefaultInfo].default_runfiles.files.to_list()
    headers = [file for file in files if _FOLDER in file.path]
    if not headers:
        fail("{}: no header under {} in {}".format(ctx.label, _FOLDER, ctx.attr.wheel.label))
    path = headers[0].path
    include = path[:path.index(_FOLDER) + len(_FOLDER) - 1]
    return [
        DefaultInfo(files = depset(headers)),
        CcInfo(compilation_context = cc_common.create_compilation_context(
            headers = depset(headers),
            system_includes = depset([include]),
        )),
    ]

xla_ffi_headers = rule(
    doc = "A header-only library, to be put into the `deps` of a cc_library.",
    implementation = _xla_ffi_headers_impl,
    attrs = {
        # The headers are the same in every wheel: take them from the one for this machine, which is here already.
        "wheel": attr.label(mandatory = True, cfg = "exec"),
    },
    provides = [CcInfo],
)
