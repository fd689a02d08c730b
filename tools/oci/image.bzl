"""`python_image`: a Python program of this repository as an image, an index over its architectures, `load` and `push`."""

load("@rules_oci//oci:defs.bzl", "oci_image", "oci_image_index", "oci_load", "oci_push")
load(":layers.bzl", "APP", "SITE", "files_layer", "program_layer", "sbom")

PYTHON = "3.13"
_PLATFORMS = ["linux_amd64", "linux_arm64"]

def python_image(
        name,
        program,
        module,
        title,
        own = {},
        large_wheels = [],
        sandbox = None,
        sandbox_parts = {},
        tars = [],
        unused = {},
        env = {},
        platforms = _PLATFORMS,
        tags = []):
    """Makes NAME (an oci_image for the target platform), NAME_index, NAME_sbom, and for a NAME of image or image_X load(_X) and push(_X).

    Layers, from below: Debian, Python, each large wheel, the other wheels with machine code, those without, the sandbox, the
    repository's own files by `own`, then the rest of them, which is the program itself. What changes often lies above.

    Args:
      name: name of the image
      program: py_library with all that the program is
      module: what `python -m` runs
      title: of the image, in its labels and its bill of materials
      own: layer -> beginning of the paths in it
      large_wheels: wheels with a layer of their own
      sandbox: label of a platform's runtime, a folder; absent: the CPU alone
      sandbox_parts: layer -> patterns of paths in the sandbox that get a layer of their own
      tars: further layers: weights, compiled programs
      unused: folder in a wheel, as the origin of its files -> what of it is kept
      env: further environment variables
      platforms: names in //platforms of what the index is over
      tags: of all targets; the index and its push are made by name alone, whatever the tags
    """
    layers = [Label(":base"), Label(":python")]
    groups = {wheel: ["wheels/native/{}/".format(wheel)] for wheel in large_wheels}
    groups |= {"wheels_native": ["wheels/native/"], "wheels": ["wheels/any/"]}
    groups |= {layer: ["own/" + path] for layer, path in own.items()} | {"app": ["own/"]}
    taken = ["own/platforms/"] if sandbox else []
    for layer, include in groups.items():
        program_layer(
            name = "{}.{}".format(name, layer),
            bytecode = PYTHON,
            exclude = taken,
            include = include,
            program = program,
            tags = tags,
            unused = unused,
        )
        taken = taken + include
        if layer == "wheels" and sandbox:
            layers += _sandbox_layers(name, sandbox, sandbox_parts, tags)
        layers.append(":{}.{}".format(name, layer))
    sbom(
        name = name + "_sbom",
        debs = [Label(":debs")],
        image = title,
        program = program,
        tags = tags,
    )
    files_layer(
        name = name + ".sbom",
        srcs = [":{}_sbom".format(name)],
        path = "usr/share/sbom",
        strip_prefix = native.package_name(),
        tags = tags,
    )
    about = {
        "org.opencontainers.image.base.name": "debian:trixie",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.title": title,
    }
    oci_image(
        name = name,
        annotations = about,
        architecture = select({
            "@platforms//cpu:aarch64": "arm64",
            "@platforms//cpu:x86_64": "amd64",
        }),
        entrypoint = ["/usr/bin/python{}".format(PYTHON), "-sP", "-m", module],
        env = {
            "HOME": "/home/nonroot",
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin",
            # The root may be read-only, and what can be compiled is.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": "/{}:/{}".format(APP, SITE),
            "PYTHONUNBUFFERED": "1",
            "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
            # A volume here keeps compiled programs; where nothing can be written, none are kept.
            "XDG_CACHE_HOME": "/cache",
        } | env,
        labels = about,
        os = "linux",
        tars = layers[:-1] + tars + [":{}.sbom".format(name), layers[-1]],
        user = "65532:65532",
        # Where a user's files are mounted, by custom: relative paths start here.
        workdir = "/",
        tags = tags,
        target_compatible_with = ["@platforms//os:linux"],
    )
    oci_image_index(
        name = name + "_index",
        images = [":" + name],
        platforms = [Label("//platforms:" + platform) for platform in platforms],
        annotations = about,
        # A whole build for each platform: made by name, not with `//...`.
        tags = ["manual"],
    )
    oci_load(
        name = "load" + name.removeprefix("image"),
        image = ":" + name,
        repo_tags = ["{}:latest".format(title)],
        tags = tags,
        target_compatible_with = ["@platforms//os:linux"],
    )
    oci_push(
        name = "push" + name.removeprefix("image"),
        image = ":{}_index".format(name),
        remote_tags = ["latest"],
        tags = ["manual"],
    )

def _sandbox_layers(name, sandbox, parts, tags):
    """The sandbox where the program looks for it, `platforms/X/sandbox`; large libraries in layers of their own."""
    taken = []
    layers = []
    for layer, only in (parts | {"sandbox": []}).items():
        files_layer(
            name = "{}.{}".format(name, layer),
            srcs = [sandbox],
            exclude = taken,
            only = only,
            path = APP,
            tags = tags,
        )
        taken = taken + only
        layers.append(":{}.{}".format(name, layer))
    return layers
