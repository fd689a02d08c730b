"""What the toolchains can compile for: one struct a target."""

GLIBC = "2.28"
_MACOS = "13.0"

# zig's libc++ has no __config_site: its own driver gives the site's settings to each compilation, as here. They
# must be those that zig builds the library with: `ZIG_VERBOSE_CC=1 zig c++ -O2` prints them.
_LIBCXX_DEFINES = [
    "_LIBCPP_ABI_VERSION=1",
    "_LIBCPP_ABI_NAMESPACE=__1",
    "_LIBCPP_HAS_THREADS=1",
    "_LIBCPP_HAS_MONOTONIC_CLOCK",
    "_LIBCPP_HAS_TERMINAL",
    "_LIBCPP_HAS_MUSL_LIBC=0",
    "_LIBCXXABI_DISABLE_VISIBILITY_ANNOTATIONS",
    "_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS",
    "_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=0",
    "_LIBCPP_HAS_FILESYSTEM=1",
    "_LIBCPP_HAS_RANDOM_DEVICE",
    "_LIBCPP_HAS_LOCALIZATION",
    "_LIBCPP_HAS_UNICODE",
    "_LIBCPP_HAS_WIDE_CHARACTERS",
    "_LIBCPP_HAS_NO_STD_MODULES",
    "_LIBCPP_PSTL_BACKEND_SERIAL",
]

def _linux(cpu, go_cpu, kernel_cpu):
    return struct(
        zig_name = "{}-linux-gnu.{}".format(cpu, GLIBC),
        go_name = "linux_{}_gnu.{}".format(go_cpu, GLIBC),
        triple = "{}-unknown-linux-gnu".format(cpu),
        os = "linux",
        cpu = cpu,
        libc = "gnu." + GLIBC,
        includes = [
            "include",
            "libc/include/{}-linux-gnu".format(kernel_cpu),
            "libc/include/generic-glibc",
            "libc/include/{}-linux-any".format(kernel_cpu),
            "libc/include/any-linux-any",
        ],
        # zig's glibc headers are of its newest glibc; this makes them declare what the chosen one has.
        defines = ["__GLIBC_MINOR__=" + GLIBC.split(".")[1]],
        cxx_defines = _LIBCXX_DEFINES + ["_LIBCPP_HAS_TIME_ZONE_DATABASE"],
        libc_files = ["libc/glibc/**"],
    )

def _macos(cpu, go_cpu):
    return struct(
        zig_name = cpu + "-macos-none",
        go_name = "darwin_" + go_cpu,
        # What the linker wants to hear is zig's spelling, what the compiler wants is LLVM's.
        zig_target = "{}-macos.{}".format(cpu, _MACOS),
        triple = "{}-apple-macosx{}".format(cpu, _MACOS),
        os = "macos",
        cpu = cpu,
        libc = None,
        includes = ["include", "libc/include/any-darwin-any"],
        defines = [],
        cxx_defines = _LIBCXX_DEFINES,
        libc_files = ["libc/darwin/**"],
    )

TARGETS = [
    _linux("x86_64", "amd64", "x86"),
    _linux("aarch64", "arm64", "aarch64"),
    _macos("aarch64", "arm64"),
]

CXX_INCLUDES = ["libcxx/include", "libcxxabi/include"]

def constraints(target):
    """The constraint values of a target's platform, less its libc."""
    return ["@platforms//os:" + target.os, "@platforms//cpu:" + target.cpu]
