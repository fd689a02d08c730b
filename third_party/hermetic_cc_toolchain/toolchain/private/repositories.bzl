"""The two repositories of the extension.

`@zig_sdk` holds what toolchain resolution looks at in every build, so it is a few BUILD files and needs no
zig. `@zig_host` holds the compiler; it is fetched when a toolchain is first analysed (which Bazel does for
py_binary and py_test, too).
"""

_HOSTS = ["linux x86_64", "linux aarch64", "macos aarch64"]

def _host(repository_ctx):
    os = repository_ctx.os.name.lower()
    os = "macos" if os.startswith("mac os") else os
    cpu = {"amd64": "x86_64", "arm64": "aarch64"}.get(repository_ctx.os.arch, repository_ctx.os.arch)
    return "{} {}".format(os, cpu)

_SDK_PACKAGES = {
    "toolchain": "declare_toolchains",
    "platform": "declare_platforms",
    "libc": "declare_libcs",
    "libc_aware/toolchain": "declare_libc_aware_toolchains",
    "libc_aware/platform": "declare_libc_aware_platforms",
}

def _zig_sdk_impl(repository_ctx):
    repository_ctx.file("BUILD.bazel", "")
    for package, macro in _SDK_PACKAGES.items():
        repository_ctx.file(package + "/BUILD.bazel", """\
load("@hermetic_cc_toolchain//toolchain/private:declare.bzl", "{macro}")

package(default_visibility = ["//visibility:public"])

{macro}()
""".format(macro = macro))

zig_sdk = repository_rule(
    doc = "The public packages: toolchain, platform, libc, libc_aware.",
    implementation = _zig_sdk_impl,
)

# Every path is relative to the execution root, where Bazel starts each action.
_TOOLS = {
    # Compiles, and links for ELF: its driver calls the linker that --ld-path names.
    "clang": """exec "{root}/zig" clang "$@"
""",
    "ld.lld": """exec "{root}/zig" ld.lld "$@"
""",
    "ar": """exec "{root}/zig" ar "$@"
""",
    # zig has no ld64: its own Mach-O linker is reached through `zig cc`, which insists on a cache folder. With
    # -nostdlib it has nothing to build, so that an empty one costs nothing.
    "clang-macho": """for argument; do
  case $argument in
    -c | -E | -S | -fsyntax-only) exec "{root}/zig" clang "$@" ;;
  esac
done
cache=$(mktemp -d) || exit
trap 'rm -rf "$cache"' EXIT
export ZIG_LIB_DIR="{root}/lib" ZIG_GLOBAL_CACHE_DIR="$cache" ZIG_LOCAL_CACHE_DIR="$cache"
"{root}/zig" cc "$@"
""",
    "unsupported": """echo "The zig toolchain has neither strip, objcopy, objdump, nm, dwp nor gcov." >&2
echo "For a file without symbols build with --strip=always, or link with -Wl,-s." >&2
exit 1
""",
}

def _zig_host_impl(repository_ctx):
    host = _host(repository_ctx)
    if host not in _HOSTS:
        fail(("hermetic_cc_toolchain: expected a host that zig's C++ toolchain runs on ({}), found {}. Build on " +
              "one of those, or register a C++ toolchain of your own above @zig_sdk's in MODULE.bazel").format(
            ", ".join(_HOSTS),
            host,
        ))

    # The way goes over a small file: Bazel would hash all of the binary at each start.
    binary = repository_ctx.attr.binary
    header = binary.name.removesuffix("zig") + "lib/zig.h"
    lib = repository_ctx.path(binary.same_package_label(header)).dirname
    repository_ctx.symlink(lib, "lib")
    repository_ctx.symlink(lib.dirname.get_child("zig"), "zig")

    root = "external/" + repository_ctx.name
    for name, script in _TOOLS.items():
        repository_ctx.file("tools/" + name, "#!/bin/sh\n" + script.format(root = root))
    repository_ctx.file("BUILD.bazel", """\
load("@hermetic_cc_toolchain//toolchain/private:cc_toolchains.bzl", "declare_cc_toolchains")

declare_cc_toolchains(sanitizers = {sanitizers})
""".format(sanitizers = repr(repository_ctx.attr.sanitizers)))

zig_host = repository_rule(
    doc = "zig for this host, with a cc_toolchain for each target.",
    implementation = _zig_host_impl,
    attrs = {
        "binary": attr.label(mandatory = True, allow_single_file = True),
        # Strings, so that nothing is fetched before a sanitizer is used.
        "sanitizers": attr.string_dict(doc = "Zig name of a target -> label of the run-time libraries."),
    },
)
