"""`oci_load`: an image into docker or podman."""

load(":common.bzl", "RUN", "list_or_file", "make_runner")

def _load_impl(ctx):
    tags = ctx.file.repo_tags_file
    if not tags:
        tags = ctx.actions.declare_file(ctx.label.name + ".tags.txt")
        ctx.actions.write(tags, "\n".join(ctx.attr.repo_tags))
    runner = make_runner(ctx, "load", {"--repo_tags_file": tags}, ["--format=" + ctx.attr.format])

    # As upstream's: the archive itself, made when it is asked for.
    tarball = ctx.actions.declare_file(ctx.label.name + "/tarball.tar")
    ctx.actions.run(
        executable = ctx.executable._tool,
        arguments = ["load", ctx.file.image.path, "--format=" + ctx.attr.format] +
                    ["--repo_tags_file=" + tags.path, "--output=" + tarball.path],
        inputs = [ctx.file.image, tags],
        outputs = [tarball],
        mnemonic = "OciTarball",
    )
    return runner + [OutputGroupInfo(tarball = depset([tarball]))]

_load = rule(
    implementation = _load_impl,
    executable = True,
    attrs = RUN | {
        "format": attr.string(default = "docker", values = ["docker", "oci"]),
        "image": attr.label(mandatory = True, allow_single_file = True),
        "repo_tags": attr.string_list(),
        "repo_tags_file": attr.label(allow_single_file = True),
    },
)

def oci_load(name, image, repo_tags = None, format = "docker", **kwargs):
    """`bazel run NAME` hands the image to docker or podman; `-- --output=FILE` writes the archive to a file.

    The output group `tarball` is the archive.

    Args:
      name: name of the target
      image: an oci_image; with format "oci" also an oci_image_index
      repo_tags: list of NAME:TAG, or a file with one in each line
      format: of the archive: docker (podman reads it too) or oci
      **kwargs: what every target has
    """
    _load(
        name = name,
        format = format,
        image = image,
        **(list_or_file("repo_tags", repo_tags) | kwargs)
    )
