"""The packages that sandboxes are made of: `@sandbox_X//:NAME` is the wheel of a package for the target platform."""

load("//third_party/debian:deb.bzl", "deb_files", "locked")
load("//third_party/pypi:wheel.bzl", "wheel_file")
load("//third_party/python:python.bzl", "host_platform")

_LOCKS = {
    target: Label("//platforms/{}:lock.json".format(target))
    for target in ["cpu_plugin", "cuda", "neuron", "rocm", "tpu"]
}

_CONSTRAINTS = {
    "linux_amd64": ["@platforms//os:linux", "@platforms//cpu:x86_64"],
    "linux_arm64": ["@platforms//os:linux", "@platforms//cpu:aarch64"],
}

# Groups of Debian packages (third_party/debian/packages.txt) that wheels need and do not bring.
_DEBIAN = {"cuda": ["zlib"]}

# Packages that are in no public index: the lock is made where pip is configured with the vendor's.
_PRIVATE = {"neuron": ["libneuronxla"]}

def _repository(target, name, platform):
    return "sandbox_{}_{}_{}".format(target, name, platform)

def _hub_impl(rctx):
    lines = ['package(default_visibility = ["//visibility:public"])\n']
    for name, values in _CONSTRAINTS.items():
        lines.append("\nconfig_setting(\n    name = \"{}\",\n    constraint_values = {},\n)\n".format(name, values))
    for group in rctx.attr.debian:
        lines.append("""
alias(
    name = "{group}",
    actual = select({branches}),
)
""".format(
            branches = {
                ":" + platform: "@{}//:debs".format(_repository(rctx.attr.target, group, platform))
                for platform in _CONSTRAINTS
            },
            group = group,
        ))
    for name in rctx.attr.absent:
        lines.append("""
config_setting(
    name = "never_{name}",
    values = {{"define": "sandbox_{target}_{name}=never"}},
)

alias(
    name = "{name}",
    actual = select(
        {{":never_{name}": ":never_{name}"}},
        no_match_error = "platforms/{target}/lock.json is empty: {name} is in no public index, only in its vendor's. " +
                         "Configure pip with that index (PIP_EXTRA_INDEX_URL or pip.conf), then run ./bazel run //platforms/{target}:lock",
    ),
)
""".format(name = name, target = rctx.attr.target))
    for name, platforms in rctx.attr.packages.items():
        lines.append("""
alias(
    name = "{name}",
    actual = select(
        {branches},
        no_match_error = "the sandbox of {target} needs {name}, which has no wheel for the target platform: the lock holds {platforms}",
    ),
)
""".format(
            name = name,
            branches = {
                "//conditions:default" if p == "any" else ":" + p: "@{}//:wheel".format(_repository(rctx.attr.target, name, p))
                for p in platforms
            },
            platforms = ", ".join(platforms),
            target = rctx.attr.target,
        ))
    rctx.file("BUILD.bazel", "".join(lines))

_hub = repository_rule(
    implementation = _hub_impl,
    attrs = {
        "absent": attr.string_list(doc = "packages that are not locked yet"),
        "debian": attr.string_list(doc = "groups of Debian packages"),
        "packages": attr.string_list_dict(doc = "package -> platforms it has a wheel for"),
        "target": attr.string(mandatory = True),
    },
)

def _sandboxes_impl(module_ctx):
    host = host_platform(module_ctx)
    for target, lock in _LOCKS.items():
        packages = json.decode(module_ctx.read(lock))["packages"]
        for name, package in packages.items():
            for platform, file in package["wheels"].items():
                wheel_file(
                    name = _repository(target, name, platform),
                    file = file["file"],
                    lock = "//platforms/{}:lock".format(target),
                    pip = None if host.startswith("macos") else Label("@pip//:pip/__main__.py"),
                    python = Label("@python_{}//:usr/bin/python3".format(host)),
                    requirement = "{}=={}".format(name, package["version"]),
                    sha256 = file["sha256"],
                    size = file["size"],
                )
        debian = _DEBIAN.get(target, [])
        for group in debian:
            for platform in _CONSTRAINTS:
                deb_files(
                    name = _repository(target, group, platform),
                    packages = locked(module_ctx, group, platform.removeprefix("linux_")),
                )
        _hub(
            name = "sandbox_" + target,
            absent = [name for name in _PRIVATE.get(target, []) if name not in packages],
            debian = debian,
            packages = {name: package["wheels"].keys() for name, package in packages.items()},
            target = target,
        )

sandboxes = module_extension(
    implementation = _sandboxes_impl,
    doc = "A hub `sandbox_X` for each platform and, fetched when a sandbox is built, a repository for each of its wheels.",
)
