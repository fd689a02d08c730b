"""`sanitized_binary` and `sanitized_test`: a program built with a sanitizer, and run as a test."""

_FEATURES = {
    "address": ["asan", "ubsan"],
    "thread": ["tsan"],
    "undefined": ["ubsan"],
}

def _sanitizer_transition_impl(settings, attr):
    features = settings["//command_line_option:features"]
    return {
        "//command_line_option:features": features + [f for f in _FEATURES[attr.sanitizer] if f not in features],
        # The lines of a report.
        "//command_line_option:strip": "never",
    }

_sanitizer_transition = transition(
    implementation = _sanitizer_transition_impl,
    inputs = ["//command_line_option:features"],
    outputs = ["//command_line_option:features", "//command_line_option:strip"],
)

def _sanitized_impl(ctx):
    info = ctx.attr.program[0][DefaultInfo]

    # A folder of its own: several sanitizers' programs can lie in one runfiles tree.
    program = ctx.actions.declare_file("{}_/{}".format(ctx.label.name, info.files_to_run.executable.basename))
    ctx.actions.symlink(output = program, target_file = info.files_to_run.executable, is_executable = True)
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.expand_template(
        template = ctx.file._script,
        output = script,
        is_executable = True,
        substitutions = {"%program%": program.short_path, "%workspace%": ctx.workspace_name},
    )
    runfiles = ctx.runfiles([program, script] + ctx.files.data).merge(info.default_runfiles)
    for target in ctx.attr.data:
        runfiles = runfiles.merge(target[DefaultInfo].default_runfiles)
    return [
        DefaultInfo(executable = script, runfiles = runfiles),
        RunEnvironmentInfo(environment = ctx.attr.env),
    ]

_ATTRS = {
    "data": attr.label_list(allow_files = True),
    "env": attr.string_dict(doc = "Environment of the program; ASAN_OPTIONS and the like are added to the rule's own."),
    "program": attr.label(mandatory = True, executable = True, cfg = _sanitizer_transition, doc = "A cc_binary."),
    "sanitizer": attr.string(
        mandatory = True,
        values = _FEATURES.keys(),
        doc = "address (with undefined), thread or undefined.",
    ),
    "_script": attr.label(default = ":sanitized.sh", allow_single_file = True),
    "_allowlist_function_transition": attr.label(
        default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
    ),
}

_sanitized_binary = rule(implementation = _sanitized_impl, attrs = _ATTRS, executable = True)
_sanitized_test = rule(implementation = _sanitized_impl, attrs = _ATTRS, test = True)

# Where the sanitizers' run-time libraries are: elsewhere the targets are incompatible, not green.
_COMPATIBLE = select({
    Label(":linux_{}".format(cpu)): []
    for cpu in ["aarch64", "x86_64"]
} | {"//conditions:default": ["@platforms//:incompatible"]})

def sanitized_binary(name, program, sanitizer, **kwargs):
    """`program` built with a sanitizer.

    Args:
      name: name of the target
      program: a cc_binary; not a cc_test, whose test options a transition drops
      sanitizer: address (with undefined), thread or undefined
      **kwargs: data, env and what every rule has
    """
    _sanitized_binary(name = name, program = program, sanitizer = sanitizer, target_compatible_with = _COMPATIBLE, **kwargs)

def sanitized_test(name, program, sanitizer, **kwargs):
    """Runs `program`, built with a sanitizer. The test fails if the program does or the sanitizer reports anything.

    Args:
      name: name of the target
      program: a cc_binary; not a cc_test, whose test options a transition drops
      sanitizer: address (with undefined), thread or undefined
      **kwargs: data, env and what every test has
    """
    _sanitized_test(name = name, program = program, sanitizer = sanitizer, target_compatible_with = _COMPATIBLE, **kwargs)
