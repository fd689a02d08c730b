"""The locked wheels: `@pypi//NAME` is a py_library of the package and all it depends on, for the target platform."""

load("//third_party/debian:deb.bzl", "locked")
load("//third_party/python:python.bzl", "host_platform")
load(":wheel.bzl", "pip", "wheel")

_LOCK = Label("//third_party/pypi:lock.json")

_CONSTRAINTS = {
    "linux_amd64": ["@platforms//os:linux", "@platforms//cpu:x86_64"],
    "linux_arm64": ["@platforms//os:linux", "@platforms//cpu:aarch64"],
    "macos_arm64": ["@platforms//os:macos", "@platforms//cpu:aarch64"],
}

def _repository(name, platform):
    return "pypi_" + name if platform == "any" else "pypi_{}_{}".format(name, platform)

def _hub_impl(rctx):
    rctx.file("BUILD.bazel", 'package(default_visibility = ["//visibility:public"])\n' + "".join([
        "\nconfig_setting(\n    name = \"{}\",\n    constraint_values = {},\n)\n".format(name, values)
        for name, values in _CONSTRAINTS.items()
    ]))
    for name, platforms in rctx.attr.packages.items():
        branches = {
            "//conditions:default" if p == "any" else "//:" + p: "@{}//:{}".format(_repository(name, p), name)
            for p in platforms
        }
        rctx.file(name + "/BUILD.bazel", """\
alias(
    name = "{name}",
    actual = select(
        {branches},
        no_match_error = "{name} has no wheel for the target platform: the lock holds {platforms}",
    ),
    visibility = ["//visibility:public"],
)
""".format(name = name, branches = branches, platforms = ", ".join(platforms)))

_hub = repository_rule(
    implementation = _hub_impl,
    attrs = {"packages": attr.string_list_dict(doc = "package -> platforms it has a wheel for")},
)

def _pypi_impl(module_ctx):
    packages = json.decode(module_ctx.read(_LOCK))["packages"]
    host = host_platform(module_ctx)
    python = "@python_{}//:usr/bin/python3".format(host)
    pip(name = "pip", packages = locked(module_ctx, "pip", "amd64"), python = python)
    for_host = {tag.package: None for module in module_ctx.modules for tag in module.tags.host}
    for name, package in packages.items():
        for platform, file in package["wheels"].items():
            repositories = [_repository(name, platform)]
            if name in for_host and platform in [host, "any"]:
                repositories.append("pypi_host_" + name)
            for repository in repositories:
                wheel(
                    name = repository,
                    package = name,
                    file = file["file"],
                    requirement = "{}=={}".format(name, package["version"]),
                    sha256 = file["sha256"],
                    size = file["size"],
                    requires = ["@pypi//" + dep for dep in package["requires"]],
                    python = python,
                    pip = None if host.startswith("macos") else "@pip//:pip/__main__.py",
                )
    _hub(name = "pypi", packages = {name: package["wheels"].keys() for name, package in packages.items()})

pypi = module_extension(
    implementation = _pypi_impl,
    tag_classes = {
        "host": tag_class(
            attrs = {"package": attr.string(mandatory = True)},
            doc = "Makes `@pypi_host_PACKAGE`, the wheel for the machine that Bazel runs on, for repository rules.",
        ),
    },
    doc = "The hub `pypi` and, fetched when they are used, a repository for each wheel.",
)
