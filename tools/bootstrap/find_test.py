"""Which Bazel ./bazel runs, and what it says where it can bring none."""

import shutil

import pytest

from tools.bootstrap.fake_host import Host


def test_zml_bazel_comes_first(host: Host) -> None:
    host.run("--version")
    host.env["ZML_BAZEL"] = str(host.program("other bazel", 'echo other "$@"'))
    assert host.run("build", "//a b") == (0, "other build //a b\n", "")


@pytest.mark.parametrize("value", ["/nowhere/bazel", "/etc/passwd", "/usr"])
def test_zml_bazel_that_is_no_program(host: Host, value: str) -> None:
    host.env["ZML_BAZEL"] = value
    assert f"ZML_BAZEL={value}" in host.error()


def test_provisioned_comes_before_path(host: Host) -> None:
    host.run("--version")
    host.program("bazelisk", "echo bazelisk")
    assert host.run("--version") == (0, "bazel 7.7.1\n", "")


def test_bazelisk_comes_before_bazel_on_path(host: Host) -> None:
    host.program("bazel", "echo bazel 8.0.0")
    host.program("bazelisk", 'echo bazelisk "$@"')
    assert host.run("build") == (0, "bazelisk build\n", "")


@pytest.mark.parametrize(
    "version", ["bazel 7.7.0", "bazel 7.10.1", "bazel 8.0.0rc1", "bazel 10.0.0- (@non-git)"]
)
def test_bazel_on_path_is_taken_as_it_is(host: Host, version: str) -> None:
    host.program("bazel", f'[[ $1 == --version ]] && echo "{version}" || echo "$@"')
    assert host.run("--batch", "build") == (0, "--batch build\n", "")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo bazel 4.2.3", "it is version 4.2.3, and this repository needs 7.7 or later"),
        ("echo bazel 7.6.9", "it is version 7.6.9"),
        ("exit 3", "it does not tell its version"),
        ("echo no release", "it does not tell its version"),
    ],
)
def test_bazel_on_path_is_passed_over_with_a_reason(host: Host, script: str, reason: str) -> None:
    path = host.program("bazel", script)
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n")
    assert f"passed over {path}: {reason}" in err


def test_wrappers_on_path_are_passed_over(host: Host) -> None:
    (host.bin / "bazel").symlink_to(host.checkout / "bazel")
    other, folder = host.root / "other", host.root / "bin2"
    shutil.copytree(host.checkout, other)
    with (other / "tools/bootstrap/packages.txt").open("a") as listing:
        listing.write("# not the same\n")
    folder.mkdir()
    (folder / "bazel").symlink_to(other / "bazel")
    host.env["PATH"] = f"{folder}:{host.bin}"
    for wrapper, theirs, own in (
        (other / "bazel", host.bin, folder),
        (host.checkout / "bazel", folder, host.bin),
    ):
        code, out, err = host.run("--version", wrapper=wrapper)
        assert (code, out) == (0, "bazel 7.7.1\n")
        assert f"{theirs}/bazel: it does not tell its version" in err
        assert f"{own}/bazel: it is this wrapper" in err


def test_unsupported_architecture(host: Host) -> None:
    host.program("dpkg", "echo riscv64")
    err = host.error()
    assert "architecture riscv64" in err
    assert "amd64 or arm64" in err


def test_not_debian(host: Host) -> None:
    (host.bin / "apt-get").unlink()
    err = host.error()
    assert "not a Debian-family host" in err
    assert "install bazelisk" in err


def test_home_that_cannot_be_written(host: Host) -> None:
    host.env["HOME"] = str(host.keyring)  # not a folder; root may write in any that is
    assert "cannot be written" in host.error()


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_no_home(host: Host, home: str | None) -> None:
    del host.env["HOME"]
    if home is not None:
        host.env["HOME"] = home
    assert "no place to keep Bazel" in host.error()


def test_home_that_no_search_path_can_name(host: Host) -> None:
    host.env["HOME"] = str(host.root / "a:b")
    assert "without colon" in host.error()
