"""qemu's emulators of single programs, from a locked Debian package."""

load("//third_party/debian:deb.bzl", "ENVIRON", "locked", "unpack")

# Of the package's emulators, 465 MB in all: those for the processors that programs are built for.
_EMULATORS = ["qemu-aarch64", "qemu-x86_64"]

def _qemu_impl(rctx):
    unpack(rctx, rctx.attr.packages)
    for emulator in _EMULATORS:
        rctx.execute(["mv", "usr/bin/" + emulator, emulator])
        if not rctx.path(emulator).exists:
            fail("expected usr/bin/{} in Debian's qemu-user, found none: see what the package in third_party/debian/lock.json holds".format(emulator))
    rctx.delete("usr")
    rctx.file("BUILD.bazel", "exports_files({}, visibility = [\"//visibility:public\"])\n".format(_EMULATORS))

_qemu = repository_rule(
    implementation = _qemu_impl,
    attrs = {"packages": attr.string_list(mandatory = True, doc = "from debian's `locked`")},
    environ = ENVIRON,
)

def _qemu_extension_impl(module_ctx):
    for arch in ["amd64", "arm64"]:
        _qemu(name = "qemu_" + arch, packages = locked(module_ctx, "qemu", arch))

qemu = module_extension(
    implementation = _qemu_extension_impl,
    doc = "Repositories `qemu_amd64` and `qemu_arm64`: emulators that run on a machine of this architecture.",
)
