"""The targets of `@zig_sdk`'s packages, in zig's names (x86_64-linux-gnu.2.28) and Go's (linux_amd64_gnu.2.28)."""

load("@platforms//host:constraints.bzl", "HOST_CONSTRAINTS")
load(":targets.bzl", "TARGETS", "constraints")

def _toolchain(target, libc):
    for name in [target.zig_name, target.go_name]:
        native.toolchain(
            name = name,
            exec_compatible_with = HOST_CONSTRAINTS,
            target_compatible_with = constraints(target) + libc,
            toolchain = "@zig_host//:" + target.zig_name,
            toolchain_type = "@bazel_tools//tools/cpp:toolchain_type",
        )

def declare_toolchains():
    """Toolchains for platforms that name no libc."""
    for target in TARGETS:
        _toolchain(target, ["//libc:unconstrained"] if target.libc else [])

def declare_libc_aware_toolchains():
    """Toolchains for platforms that name the libc they have."""
    for target in TARGETS:
        if target.libc:
            _toolchain(target, ["//libc:" + target.libc])

def _platform(target, suffix, libc):
    oses = [target.os] + (["darwin"] if target.os == "macos" else [])
    cpus = [target.cpu, target.go_name.split("_")[1]]
    for os in oses:
        for cpu in cpus:
            native.platform(
                name = "{}_{}{}".format(os, cpu, suffix),
                constraint_values = constraints(target) + libc,
            )

def declare_platforms():
    for target in TARGETS:
        _platform(target, "", [])

def declare_libc_aware_platforms():
    for target in TARGETS:
        if target.libc:
            _platform(target, "_" + target.libc, ["//libc:" + target.libc])

def declare_libcs():
    """The constraint that tells platforms of several libcs apart; most platforms leave it at its default."""
    native.constraint_setting(name = "variant", default_constraint_value = ":unconstrained")
    native.constraint_value(name = "unconstrained", constraint_setting = ":variant")
    for libc in {target.libc: None for target in TARGETS if target.libc}:
        native.constraint_value(name = libc, constraint_setting = ":variant")
