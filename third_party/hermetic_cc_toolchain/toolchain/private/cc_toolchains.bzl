"""The targets of `@zig_host`: a cc_toolchain for each target."""

load("@rules_cc//cc/toolchains:cc_toolchain.bzl", "cc_toolchain")
load(":cc_config.bzl", "SANITIZERS", "zig_cc_config")
load(":runtime.bzl", "zig_runtime")
load(":targets.bzl", "CXX_INCLUDES", "TARGETS")

# What zig needs to build libc++, libunwind, compiler_rt and libc's start files, whatever the target.
_RUNTIME_SOURCES = [
    "*.zig",
    "c/**",
    "compiler_rt/**",
    "include/**",
    "libcxx/**",
    "libcxxabi/**",
    "libunwind/**",
    "std/**",
]

def _lib(patterns):
    return native.glob(["lib/" + pattern for pattern in patterns])

def declare_cc_toolchains(sanitizers):
    """Declares `:<zig_name>` for every target.

    Args:
      sanitizers: zig name of a target -> label of the sanitizers' run-time libraries
    """
    for feature in SANITIZERS:
        native.config_setting(
            name = feature,
            values = {"features": feature},
        )
    native.filegroup(
        name = "tools",
        srcs = ["zig"] + native.glob(["tools/*"]),
    )
    native.filegroup(
        name = "cxx_headers",
        srcs = _lib([include + "/**" for include in CXX_INCLUDES]),
    )
    for target in TARGETS:
        _declare(target, sanitizers.get(target.zig_name))

def _with_sanitizers(value, otherwise):
    """`value` where a sanitizer is on for the whole configuration, so that nothing is fetched where none is.

    For attributes of rules that are built for the target: files of a toolchain are built for the execution platform.
    """
    return select({":" + feature: value for feature in SANITIZERS} | {"//conditions:default": otherwise})

def _declare(target, sanitizers):
    name = target.zig_name
    native.filegroup(
        name = name + "_headers",
        srcs = _lib([include + "/**" for include in target.includes]),
    )
    zig_runtime(
        name = name + "_runtime",
        srcs = _lib(_RUNTIME_SOURCES + target.libc_files) + [":" + name + "_headers"],
        zig_target = getattr(target, "zig_target", name),
        zig = "zig",
    )
    zig_cc_config(
        name = name + "_config",
        target = name,
        runtime = ":{}_runtime".format(name),
        sanitizers = _with_sanitizers(sanitizers, None) if sanitizers else None,
    )
    native.filegroup(
        name = name + "_compiler_files",
        srcs = [":tools", ":cxx_headers", ":{}_headers".format(name)],
    )
    native.filegroup(
        name = name + "_linker_files",
        srcs = [":tools", ":{}_runtime".format(name)] + (_lib(target.libc_files) if target.os == "macos" else []),
    )
    native.filegroup(
        name = name + "_all_files",
        srcs = [":{}_compiler_files".format(name), ":{}_linker_files".format(name)],
    )
    native.filegroup(
        name = name + "_sanitized_files",
        srcs = [":{}_all_files".format(name)] + ([sanitizers] if sanitizers else []),
    )
    cc_toolchain(
        name = name,
        all_files = _with_sanitizers(":{}_sanitized_files".format(name), ":{}_all_files".format(name)),
        ar_files = ":tools",
        as_files = ":{}_compiler_files".format(name),
        compiler_files = ":{}_compiler_files".format(name),
        dwp_files = ":tools",
        linker_files = _with_sanitizers(":{}_sanitized_files".format(name), ":{}_linker_files".format(name)),
        objcopy_files = ":tools",
        strip_files = ":tools",
        toolchain_config = ":{}_config".format(name),
        visibility = ["@zig_sdk//:__subpackages__"],
    )
