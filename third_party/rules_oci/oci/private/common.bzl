"""What the rules share."""

TOOL = {
    "_tool": attr.label(
        default = Label(":oci"),
        executable = True,
        cfg = "exec",
    ),
}

RUN = TOOL | {"_run": attr.label(
    default = Label(":run.sh"),
    allow_single_file = True,
)}

def list_or_file(name, value):
    """A list is an attribute, a label the file that holds one.

    Args:
      name: of the attribute
      value: list, dict, label as text, or None
    Returns:
      dict of attributes: NAME or NAME_file
    """
    if value == None:
        return {}
    return {name + "_file" if type(value) in ["string", "Label"] else name: value}

def make_layout(ctx, command, spec, inputs, message):
    """Declares the folder `ctx.label.name`, made by the program from `spec` and the name of the folder.

    Args:
      ctx: of the rule
      command: of the program
      spec: dict, to be JSON
      inputs: files
      message: what Bazel shows
    Returns:
      providers of the rule
    """
    layout = ctx.actions.declare_directory(ctx.label.name)
    file = ctx.actions.declare_file(ctx.label.name + ".spec.json")
    ctx.actions.write(file, json.encode(spec | {"output": layout.path}))
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [command, file.path],
        inputs = inputs + [file],
        outputs = [layout],
        mnemonic = "Oci" + command.title(),
        progress_message = message,
    )
    return [DefaultInfo(files = depset([layout]), runfiles = ctx.runfiles([layout]))]

def make_runner(ctx, command, files, arguments):
    """An executable that calls the program with the image's layout and `arguments`.

    Args:
      ctx: of a rule with the attributes RUN and `image`
      command: of the program
      files: dict of flags and the files they name
      arguments: further flags
    Returns:
      providers of the rule
    """
    layout = ctx.file.image
    words = [command, _in_runfiles(ctx, layout)]
    words += ["{}={}".format(flag, _in_runfiles(ctx, file)) for flag, file in files.items()]
    words += ["'{}'".format(argument) for argument in arguments]
    script = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.expand_template(
        template = ctx.file._run,
        output = script,
        is_executable = True,
        substitutions = {
            "%arguments%": " ".join(words),
            "%tool%": _path(ctx, ctx.executable._tool),
        },
    )
    runfiles = ctx.runfiles([layout] + files.values()).merge(ctx.attr._tool[DefaultInfo].default_runfiles)
    return [DefaultInfo(executable = script, runfiles = runfiles)]

def _in_runfiles(ctx, file):
    return '"$runfiles/{}"'.format(_path(ctx, file))

def _path(ctx, file):
    path = file.short_path
    return path[len("../"):] if path.startswith("../") else ctx.workspace_name + "/" + path

def _digest_impl(ctx):
    out = ctx.actions.declare_file(ctx.attr.file)
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = ["digest", ctx.file.image.path, out.path],
        inputs = [ctx.file.image],
        outputs = [out],
        mnemonic = "OciDigest",
    )
    return [DefaultInfo(files = depset([out]), runfiles = ctx.runfiles([out]))]

oci_digest = rule(
    doc = "The digest of an image or index, as a file.",
    implementation = _digest_impl,
    attrs = TOOL | {
        "file": attr.string(mandatory = True),
        "image": attr.label(mandatory = True, allow_single_file = True),
    },
)
