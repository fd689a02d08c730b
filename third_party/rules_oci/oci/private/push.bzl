"""`oci_push`: an image into a registry."""

load(":common.bzl", "RUN", "list_or_file", "make_runner")

def _push_impl(ctx):
    files, arguments = {}, []
    if ctx.file.remote_tags_file:
        files["--remote_tags_file"] = ctx.file.remote_tags_file
    if ctx.file.repository_file:
        files["--repository_file"] = ctx.file.repository_file
    arguments += ["--tag=" + tag for tag in ctx.attr.remote_tags]
    if ctx.attr.repository:
        arguments.append("--repository=" + ctx.attr.repository)
    return make_runner(ctx, "push", files, arguments)

_push = rule(
    implementation = _push_impl,
    executable = True,
    attrs = RUN | {
        "image": attr.label(mandatory = True, allow_single_file = True),
        "remote_tags": attr.string_list(),
        "remote_tags_file": attr.label(allow_single_file = True),
        "repository": attr.string(),
        "repository_file": attr.label(allow_single_file = True),
    },
)

def oci_push(name, image, repository = None, remote_tags = None, repository_file = None, **kwargs):
    """`bazel run NAME` pushes the image, and prints REPOSITORY@DIGEST.

    `-- --repository=HOST/NAME` names another repository, `--tag=TAG` a further tag, `--mount=NAME` a repository of the same
    registry that has some of the layers. Credentials are docker's and podman's, with their helpers.

    Args:
      name: name of the target
      image: an oci_image or oci_image_index
      repository: HOST/NAME; absent: the command line says
      remote_tags: list of tags, or a file with one in each line
      repository_file: a file that holds HOST/NAME
      **kwargs: what every target has
    """
    _push(
        name = name,
        image = image,
        repository = repository,
        repository_file = repository_file,
        **(list_or_file("remote_tags", remote_tags) | kwargs)
    )
