"""`emulated_test`: runs a program on a processor that this machine does not have."""

# Debian's name of the architecture -> (GNU's name of the processor, platform)
_ARCHITECTURES = {
    "amd64": ("x86_64", Label("//platforms:linux_amd64")),
    "arm64": ("aarch64", Label("//platforms:linux_arm64")),
}

def _platform_transition_impl(_settings, attr):
    return {"//command_line_option:platforms": str(_ARCHITECTURES[attr.arch][1])}

_platform_transition = transition(
    implementation = _platform_transition_impl,
    inputs = [],
    outputs = ["//command_line_option:platforms"],
)

_SCRIPT = """\
#!/bin/sh
exec '{qemu}' -cpu '{cpu}' '{loader}' --library-path '{libraries}' '{program}' "$@"
"""

def _emulated_test_impl(ctx):
    # The C library without its conversions and locales, and its loader, by which the program is started: it is linked
    # for a machine that has them in its root.
    folder = "/{}-linux-gnu".format(_ARCHITECTURES[ctx.attr.arch][0])
    libc = [file for file in ctx.files.libc if file.dirname.endswith(folder)]
    [loader] = [file for file in libc if file.basename.startswith("ld-linux-")]
    program = ctx.attr.program[0][DefaultInfo]
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.write(script, is_executable = True, content = _SCRIPT.format(
        cpu = ctx.attr.cpu,
        libraries = loader.short_path.rpartition("/")[0],
        loader = loader.short_path,
        program = program.files_to_run.executable.short_path,
        qemu = ctx.file.qemu.short_path,
    ))
    runfiles = ctx.runfiles(libc + ctx.files.data + [ctx.file.qemu]).merge(program.default_runfiles)
    return [
        DefaultInfo(executable = script, runfiles = runfiles),
        RunEnvironmentInfo(environment = ctx.attr.env),
    ]

_emulated_test = rule(
    implementation = _emulated_test_impl,
    attrs = {
        "arch": attr.string(mandatory = True, values = _ARCHITECTURES.keys()),
        "cpu": attr.string(mandatory = True),
        "data": attr.label_list(allow_files = True),
        "env": attr.string_dict(),
        "libc": attr.label(mandatory = True, doc = "Files of Debian's libc6 for `arch`."),
        "program": attr.label(mandatory = True, executable = True, cfg = _platform_transition),
        "qemu": attr.label(mandatory = True, allow_single_file = True),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
    test = True,
)

def emulated_test(name, program, arch = "arm64", cpu = "max", **kwargs):
    """Runs `program`, built for Linux on `arch`, under qemu. Its exit code is the test's.

    Everything that it is run with comes from the lock; this machine must run Linux, or the target is incompatible.

    Args:
      name: name of the target
      program: a cc_binary; not a cc_test, whose test options a transition drops
      arch: arm64 or amd64
      cpu: qemu's name of the processor: for arm64 cortex-a53 (NEON alone), neoverse-n1 (dotprod), neoverse-v1 (i8mm, bf16, SVE),
        max; for amd64 Nehalem (SSE4.2), SandyBridge (AVX), Haswell-noTSX (AVX2, FMA, F16C), max. qemu has no AVX-512
      **kwargs: args, data, env and what every test has
    """
    _emulated_test(
        name = name,
        arch = arch,
        cpu = cpu,
        libc = Label("@debian_glibc_{}//:files".format(arch)),
        program = program,
        qemu = select({
            Label("//third_party/qemu:linux_" + host): Label("@qemu_{}//:qemu-{}".format(host, _ARCHITECTURES[arch][0]))
            for host in _ARCHITECTURES
        }),
        target_compatible_with = ["@platforms//os:linux"],
        **kwargs
    )
