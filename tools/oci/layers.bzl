"""Rules for layers: what is in one is a list, written here, that layer.py follows."""

load("@rules_python//python:py_info.bzl", "PyInfo")

_TOOL = {
    "compress": attr.bool(default = True, doc = "False for what does not get smaller, such as weights"),
    "_tool": attr.label(default = Label("//tools/oci:layer"), executable = True, cfg = "exec"),
}

# Where wheels and the repository's own files lie in an image.
SITE = "opt/site-packages"
APP = "opt/app"

def _make(ctx, inputs, lines):
    args = ctx.actions.args()
    args.set_param_file_format("multiline")
    args.use_param_file("%s", use_always = True)
    args.add_all(lines)
    out = ctx.actions.declare_file(ctx.label.name + (".tar.gz" if ctx.attr.compress else ".tar"))
    command = ctx.actions.args()
    command.add(out)
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [args, command],
        inputs = inputs,
        outputs = [out],
        mnemonic = "Layer",
        progress_message = "Writing the layer %{label}",
    )
    return [DefaultInfo(files = depset([out]))]

def _line(*words):
    return "\t".join(words)

def _debs_layer_impl(ctx):
    leave = {file.basename: None for target in ctx.attr.without for file in target.files.to_list()}
    debs = [file for file in ctx.files.debs if file.basename not in leave]
    lines = [_line("deb", file.path) for file in debs] + [_line("exclude", pattern) for pattern in ctx.attr.exclude]
    lines += [_line("link", path, target) for path, target in ctx.attr.links.items()]
    lines += [_line("text", path, "644", text.replace("\n", "\\n")) for path, text in ctx.attr.texts.items()]
    lines += [_line("folder", path, *what.split(" ")) for path, what in ctx.attr.folders.items()]
    if ctx.attr.certificates:
        lines.append(_line("certificates", ctx.attr.certificates))
    if ctx.attr.bytecode:
        lines.append(_line("bytecode", ctx.attr.bytecode))
    return _make(ctx, debs, lines)

debs_layer = rule(
    doc = "A layer of Debian packages and what their installation would make.",
    implementation = _debs_layer_impl,
    attrs = _TOOL | {
        "bytecode": attr.string(doc = "Python version to make .pyc files for"),
        "certificates": attr.string(doc = "path of the file of all certificates"),
        "debs": attr.label_list(allow_files = [".deb"]),
        "exclude": attr.string_list(doc = "patterns of paths"),
        "folders": attr.string_dict(doc = "path -> MODE OWNER"),
        "links": attr.string_dict(doc = "path -> target"),
        "texts": attr.string_dict(doc = "path -> content"),
        "without": attr.label_list(doc = "layers below have the packages of these already"),
    },
)

def _origin(file):
    """Which part of a program a file is: `wheels/any/jax/...`, `wheels/native/numpy/...` or `own/zml/...`; "" for none."""
    repository = file.owner.workspace_name
    if not repository:
        # Not Bazel's second copy of shared libraries, which C++ programs are linked with.
        return "" if file.short_path.startswith("_solib_") else "own/" + file.short_path
    name = repository.replace("+", "~").split("~")[-1]
    if not name.startswith("pypi_"):
        return ""
    wheel, kind = name[len("pypi_"):], "any"
    for platform in ["_linux_amd64", "_linux_arm64", "_macos_arm64"]:
        if wheel.endswith(platform):
            wheel, kind = wheel[:-len(platform)], "native"

    # ../REPOSITORY/path
    return "wheels/{}/{}/{}".format(kind, wheel, file.short_path.split("/", 2)[2])

def _place(origin):
    return SITE + "/" + origin.split("/", 3)[3] if origin.startswith("wheels/") else APP + origin[len("own"):]

def _matches(origin, prefixes):
    return any([origin.startswith(prefix) for prefix in prefixes])

def _is_unused(origin, unused):
    return any([
        origin.startswith(folder) and not _matches(origin, [folder + name for name in kept])
        for folder, kept in unused.items()
    ])

def _program_layer_impl(ctx):
    files = ctx.attr.program[DefaultInfo].default_runfiles.files.to_list()
    inputs, lines = [], []
    for file in files:
        origin = _origin(file)
        if not origin or _is_unused(origin, ctx.attr.unused):
            continue
        if _matches(origin, ctx.attr.include) and not _matches(origin, ctx.attr.exclude):
            inputs.append(file)
            lines.append(_line("file", file.path, _place(origin)))
    if not lines:
        fail("no file of {} is in {}: expected some in {}".format(ctx.attr.program.label, ctx.attr.include, ctx.label))
    if ctx.attr.bytecode:
        lines.append(_line("bytecode", ctx.attr.bytecode))
    return _make(ctx, inputs, lines)

program_layer = rule(
    doc = "A layer of those files of a Python program that come from somewhere, in one flat folder for wheels and one for the rest.",
    implementation = _program_layer_impl,
    attrs = _TOOL | {
        "bytecode": attr.string(doc = "Python version to make .pyc files for"),
        "exclude": attr.string_list(doc = "beginnings of origins, in other layers"),
        "include": attr.string_list(mandatory = True, doc = "beginnings of origins: wheels/any/NAME/, wheels/native/NAME/, own/FOLDER/"),
        "program": attr.label(mandatory = True, providers = [PyInfo]),
        "unused": attr.string_list_dict(doc = "folder's origin -> names in it that are kept; the rest of it is left out"),
    },
)

def _files_layer_impl(ctx):
    lines = []
    for file in ctx.files.srcs:
        below = file.short_path
        if ctx.attr.strip_prefix:
            if not (below + "/").startswith(ctx.attr.strip_prefix + "/"):
                fail("{} does not lie in {}".format(below, ctx.attr.strip_prefix))
            below = below[len(ctx.attr.strip_prefix) + 1:]
        lines.append(_line("file", file.path, "/".join([part for part in [ctx.attr.path, below] if part])))
    lines += [_line("only", pattern) for pattern in ctx.attr.only]
    lines += [_line("exclude", pattern) for pattern in ctx.attr.exclude]
    return _make(ctx, ctx.files.srcs, lines)

files_layer = rule(
    doc = "A layer of files and folders: weights, compiled programs, a platform's sandbox.",
    implementation = _files_layer_impl,
    attrs = _TOOL | {
        "exclude": attr.string_list(doc = "patterns of paths in the image"),
        "only": attr.string_list(doc = "patterns of paths in the image; none: all"),
        "path": attr.string(mandatory = True, doc = "folder in the image, without a leading slash"),
        "srcs": attr.label_list(mandatory = True, allow_files = True),
        "strip_prefix": attr.string(doc = "what to take off the files' paths"),
    },
)

def _sbom_impl(ctx):
    wheels = {}
    for file in ctx.attr.program[DefaultInfo].default_runfiles.files.to_list():
        name = file.owner.workspace_name.replace("+", "~").split("~")[-1]
        if name.startswith("pypi_"):
            wheels[name[len("pypi_"):]] = None
    out = ctx.actions.declare_file(ctx.label.name + ".spdx.json")
    args = ctx.actions.args()
    args.add_all("--name", [ctx.attr.image])
    args.add_all("--debian_lock", [ctx.file._debian])
    args.add_all("--pypi_lock", [ctx.file._pypi])
    args.add_all("--output", [out])
    args.add_all([file.basename for file in ctx.files.debs], before_each = "--deb")
    args.add_all(wheels.keys(), before_each = "--wheel")
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = [args],
        inputs = [ctx.file._debian, ctx.file._pypi],
        outputs = [out],
        mnemonic = "Sbom",
    )
    return [DefaultInfo(files = depset([out]))]

sbom = rule(
    doc = "The bill of materials of an image, SPDX 2.3.",
    implementation = _sbom_impl,
    attrs = {
        "debs": attr.label_list(allow_files = [".deb"]),
        "image": attr.string(mandatory = True, doc = "name in the document"),
        "program": attr.label(mandatory = True, providers = [PyInfo]),
        "_debian": attr.label(default = Label("//third_party/debian:lock.json"), allow_single_file = True),
        "_pypi": attr.label(default = Label("//third_party/pypi:lock.json"), allow_single_file = True),
        "_tool": attr.label(default = Label("//tools/oci:write_sbom"), executable = True, cfg = "exec"),
    },
)
