"""What a program is linked with besides its own objects.

That is libc++, libunwind, compiler_rt, libc's stubs and start files. zig builds these from source when it
first links for a target, and keeps them in a cache that is bound to the machine. Here one action does it for
each target; its output is an input of every link, as a C library's package would be.
"""

def _resources(_os, _input_count):
    # zig compiles on all cores.
    return {"cpu": 4, "memory": 1000}

def _zig_runtime_impl(ctx):
    out = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run(
        executable = ctx.executable._builder,
        arguments = [ctx.file.zig.path, ctx.label.workspace_root + "/lib", ctx.attr.zig_target, out.path],
        inputs = ctx.files.srcs,
        tools = [ctx.file.zig],
        outputs = [out],
        resource_set = _resources,
        mnemonic = "ZigRuntime",
        progress_message = "Building the C++ runtime of {}, once (about a minute)".format(ctx.attr.zig_target),
    )
    return DefaultInfo(files = depset([out]))

zig_runtime = rule(
    doc = "A directory of the libraries and start files of one target.",
    implementation = _zig_runtime_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = True),
        "zig": attr.label(allow_single_file = True, mandatory = True),
        "zig_target": attr.string(mandatory = True, doc = "The target in zig's spelling."),
        "_builder": attr.label(
            default = "//toolchain/private:runtime.sh",
            allow_single_file = True,
            executable = True,
            cfg = "exec",
        ),
    },
)
