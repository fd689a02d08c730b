"""`for_platform`: a target built for another machine."""

def _platform_transition_impl(_settings, attr):
    return {"//command_line_option:platforms": str(attr.platform)}

_platform_transition = transition(
    implementation = _platform_transition_impl,
    inputs = [],
    outputs = ["//command_line_option:platforms"],
)

def _for_platform_impl(ctx):
    outs = []
    for file in ctx.files.target:
        # A folder of its own: two platforms' files can lie in one runfiles tree.
        out = ctx.actions.declare_file("{}/{}".format(ctx.label.name, file.basename))
        ctx.actions.symlink(output = out, target_file = file)
        outs.append(out)
    return DefaultInfo(files = depset(outs), runfiles = ctx.runfiles(outs))

for_platform = rule(
    doc = "The files of `target` built for `platform`, in the folder `name`.",
    implementation = _for_platform_impl,
    attrs = {
        "platform": attr.label(mandatory = True, doc = "A platform() target."),
        "target": attr.label(mandatory = True, cfg = _platform_transition),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
)
