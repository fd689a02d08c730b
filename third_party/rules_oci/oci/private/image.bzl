"""`oci_image`: an image as a folder in OCI's layout."""

load(":common.bzl", "TOOL", "list_or_file", "make_layout", "oci_digest")

_LISTS = ["cmd", "entrypoint", "exposed_ports", "volumes"]
_MAPS = ["annotations", "env", "labels"]
_FILES = [name + "_file" for name in _LISTS + _MAPS + ["created"]]

def _image_impl(ctx):
    inputs, layers = [], []
    for number, tar in enumerate(ctx.files.tars):
        # Beside the layout and not in it: a layer that did not change is not read again.
        descriptor = ctx.actions.declare_file("{}.layers/{}.json".format(ctx.label.name, number))
        name = tar.basename.removesuffix(".gz").removesuffix(".tar")
        ctx.actions.run(
            executable = ctx.executable._tool,
            arguments = ["describe", tar.path, name, descriptor.path],
            inputs = [tar],
            outputs = [descriptor],
            mnemonic = "OciDescribe",
            progress_message = "Reading the layer %{input}",
        )
        inputs += [tar, descriptor]
        layers.append({"descriptor": descriptor.path, "tar": tar.path})
    spec = {
        name: getattr(ctx.attr, name)
        for name in ["architecture", "os", "user", "variant", "workdir"] + _MAPS + _LISTS
    }
    for name in _LISTS:
        spec[name] = spec[name] or None
    for name in _FILES:
        file = getattr(ctx.file, name)
        spec[name] = file.path if file else None
        inputs += [file] if file else []
    base = ctx.file.base
    spec |= {"base": base.path if base else None, "layers": layers}
    inputs += [base] if base else []
    return make_layout(ctx, "image", spec, inputs, "Making the image %{label}")

_image = rule(
    implementation = _image_impl,
    attrs = TOOL | {
        name: attr.label(allow_single_file = True)
        for name in _FILES
    } | {
        name: attr.string_dict()
        for name in _MAPS
    } | {
        name: attr.string_list()
        for name in _LISTS
    } | {
        "architecture": attr.string(),
        "base": attr.label(allow_single_file = True),
        "os": attr.string(),
        "tars": attr.label_list(allow_files = [".tar", ".tar.gz", ".tgz"]),
        "user": attr.string(),
        "variant": attr.string(),
        "workdir": attr.string(),
    },
)

def oci_image(
        name,
        base = None,
        tars = [],
        entrypoint = None,
        cmd = None,
        env = None,
        user = None,
        workdir = None,
        exposed_ports = None,
        volumes = None,
        labels = None,
        annotations = None,
        created = None,
        os = None,
        architecture = None,
        variant = None,
        **kwargs):
    """An image, as a folder in OCI's layout; `NAME.digest` is its digest, as a file.

    The same inputs give the same bytes, and so the same digest, everywhere.

    Args:
      name: name of the target
      base: an oci_image or another layout whose layers and config this one goes on from
      tars: layers: tar archives, plain or gzip, stored as they are, one above the other
      entrypoint: list, or a file with an item in each line
      cmd: list, or a file with an item in each line
      env: dict, or a file with KEY=VALUE in each line; `$NAME` in a value is what the base says
      user: USER, UID or UID:GID
      workdir: absolute path
      exposed_ports: list such as `8080/tcp`, or a file with an item in each line
      volumes: list of paths, or a file with an item in each line
      labels: dict, or a file with KEY=VALUE in each line
      annotations: of the manifest: dict, or a file with KEY=VALUE in each line
      created: file with a time such as 2026-01-31T12:00:00Z. Default: the beginning of 1970
      os: such as linux; with `base`, its own
      architecture: such as amd64 or arm64; with `base`, its own
      variant: such as v8
      **kwargs: what every target has
    """
    given = {"created_file": created} if created else {}
    for attribute, value in {
        "annotations": annotations,
        "cmd": cmd,
        "entrypoint": entrypoint,
        "env": env,
        "exposed_ports": exposed_ports,
        "labels": labels,
        "volumes": volumes,
    }.items():
        given |= list_or_file(attribute, value)
    _image(
        name = name,
        architecture = architecture,
        base = base,
        os = os,
        tars = tars,
        user = user,
        variant = variant,
        workdir = workdir,
        **(given | kwargs)
    )
    oci_digest(
        name = name + ".digest",
        file = name + ".json.sha256",
        image = name,
        **kwargs
    )
