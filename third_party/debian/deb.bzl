"""Locked Debian packages, downloaded and unpacked as they are: nothing is installed, no maintainer script runs."""

load(":mirror.bzl", "debian_mirrors")

LOCK = Label("//third_party/debian:lock.json")

# Given to every repository rule that calls `unpack`: with another mirror the packages are the same, but a failed
# download must be tried again.
ENVIRON = ["ZML_DEBIAN_MIRROR"]

def locked(module_ctx, group, arch):
    """The packages of one group of packages.txt.

    Args:
      module_ctx: module_ctx
      group: name of a line in packages.txt
      arch: Debian's name of the architecture
    Returns:
      list of JSON objects as text (a repository rule's attribute cannot hold a dict), for `unpack`
    """
    lock = json.decode(module_ctx.read(LOCK))
    by_name = {p["name"]: p for p in lock["packages"] if p["architecture"] in [arch, "all"]}
    return [json.encode(by_name[name]) for name in lock["groups"][group][arch]]

def unpack(rctx, packages):
    """Unpacks packages over each other into the repository's root, where their `usr/` appears.

    Args:
      rctx: repository_ctx of a rule with `environ = ENVIRON`
      packages: from `locked`
    """
    for package, file in _download(rctx, packages):
        # A .deb is an ar archive of two tar archives, one for dpkg and one with the files.
        folder = "debs/" + package["name"]
        rctx.extract(file, folder)
        for member in rctx.path(folder).readdir(watch = "no"):
            if member.basename.startswith("data.tar."):
                rctx.extract(member)
    rctx.delete("debs")

def _download(rctx, packages):
    """The packages, as pairs of what the lock says and a file `debs/NAME_ARCHITECTURE.deb`."""
    mirrors = debian_mirrors(rctx)
    pending = []
    for package in [json.decode(p) for p in packages]:
        file = "debs/{name}_{architecture}.deb".format(**package)
        urls = [mirror + "/" + package["path"] for mirror in mirrors]
        pending.append((package, file, rctx.download(urls, file, sha256 = package["sha256"], allow_fail = True, block = False)))
    for package, file, download in pending:
        if not download.wait().success:
            fail(("{name} {version} ({architecture}) did not download from {mirrors}: expected {path} with sha256 {sha256} " +
                  "there. If the mirror is in reach, Debian has replaced the package by a newer one: refresh the lock " +
                  "with `./bazel run //third_party/debian:lock`. ZML_DEBIAN_MIRROR names another mirror.").format(
                mirrors = " or ".join(mirrors),
                **package
            ))
    return [(package, file) for package, file, _ in pending]

def _deb_tree_impl(rctx):
    unpack(rctx, rctx.attr.packages)
    rctx.file("BUILD.bazel", """\
package(default_visibility = ["//visibility:public"])

exports_files(glob(["usr/**"]))

filegroup(
    name = "files",
    srcs = glob(["usr/**"], exclude = ["usr/share/doc/**", "usr/share/man/**"]),
)
""")

deb_tree = repository_rule(
    implementation = _deb_tree_impl,
    attrs = {"packages": attr.string_list(mandatory = True, doc = "from `locked`")},
    environ = ENVIRON,
    doc = "A repository with the files of a group of packages: `:files`, or one by its path `:usr/...`.",
)

def _deb_files_impl(rctx):
    _download(rctx, rctx.attr.packages)
    rctx.file("BUILD.bazel", """\
filegroup(
    name = "debs",
    srcs = glob(["debs/*.deb"]),
    visibility = ["//visibility:public"],
)
""")

deb_files = repository_rule(
    implementation = _deb_files_impl,
    attrs = {"packages": attr.string_list(mandatory = True, doc = "from `locked`")},
    environ = ENVIRON,
    doc = "A repository with a group of packages as they are downloaded: `:debs`. Links and modes stay what they are.",
)

def _debian_impl(module_ctx):
    groups = json.decode(module_ctx.read(LOCK))["groups"]
    for group, by_arch in groups.items():
        for arch in by_arch:
            packages = locked(module_ctx, group, arch)
            deb_tree(name = "debian_{}_{}".format(group, arch), packages = packages)
            deb_files(name = "debs_{}_{}".format(group, arch), packages = packages)

debian = module_extension(
    implementation = _debian_impl,
    doc = "Repositories `debian_GROUP_ARCH` (unpacked) and `debs_GROUP_ARCH` (as downloaded) for each group of packages.txt and architecture, fetched when used.",
)
