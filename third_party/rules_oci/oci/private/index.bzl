"""`oci_image_index`: images of several platforms under one name."""

load(":common.bzl", "TOOL", "list_or_file", "make_layout", "oci_digest")

_OPTION = "//command_line_option:platforms"

def _platforms_impl(settings, attr):
    if not attr.platforms:
        return {"as it is": {_OPTION: settings[_OPTION]}}
    return {str(platform): {_OPTION: str(platform)} for platform in attr.platforms}

_platforms = transition(
    implementation = _platforms_impl,
    inputs = [_OPTION],
    outputs = [_OPTION],
)

def _index_impl(ctx):
    annotations = ctx.file.annotations_file
    spec = {
        "annotations": ctx.attr.annotations,
        "annotations_file": annotations.path if annotations else None,
        "images": [image.path for image in ctx.files.images],
    }
    inputs = ctx.files.images + ([annotations] if annotations else [])
    return make_layout(ctx, "index", spec, inputs, "Making the index %{label}")

_index = rule(
    implementation = _index_impl,
    attrs = TOOL | {
        "annotations": attr.string_dict(),
        "annotations_file": attr.label(allow_single_file = True),
        "images": attr.label_list(mandatory = True, cfg = _platforms, allow_empty = False),
        "platforms": attr.label_list(),
        "_allowlist_function_transition": attr.label(
            default = "@bazel_tools//tools/allowlists/function_transition_allowlist",
        ),
    },
)

def oci_image_index(name, images, platforms = [], annotations = None, **kwargs):
    """An index of images, as a folder in OCI's layout; `NAME.digest` is its digest, as a file.

    Args:
      name: name of the target
      images: oci_image targets, each for another platform
      platforms: platform() targets: the images are built for each of them, whatever the build is for
      annotations: dict, or a file with KEY=VALUE in each line
      **kwargs: what every target has
    """
    _index(
        name = name,
        images = images,
        platforms = platforms,
        **(list_or_file("annotations", annotations) | kwargs)
    )
    oci_digest(
        name = name + ".digest",
        file = name + ".json.sha256",
        image = name,
        **kwargs
    )
