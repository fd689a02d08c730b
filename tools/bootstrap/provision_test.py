"""./bazel brings a Bazel: once, whole or not at all, fit for its place."""

import os
import signal
from pathlib import Path

import pytest

from tools.bootstrap.fake_host import JARS, Host, wait_for


def test_brings_bazel_and_runs_it(host: Host) -> None:
    code, out, err = host.run("--output_base=/x y", "build", "//a b:c", "--", "-d")
    assert code == 0, err
    tree = host.tree()
    args = out.splitlines()
    assert args[:3] == [
        "--nosystem_rc",
        f"--install_base={tree}/usr/share/bazel",
        "--trust_install_base",
    ]
    assert args[3] == f"--server_javabase={tree}/usr/lib/jvm/java-99-openjdk"
    assert args[4].startswith(f"--bazelrc={tree}/rc/")
    assert args[5:] == ["--output_base=/x y", "build", "//a b:c", "--", "-d"]
    for step in (
        "[1/4] package index",
        "[2/4] downloading 7 packages",
        "[3/4] unpacking",
        "[4/4]",
        "Bazel is ready",
    ):
        assert step in err


def test_the_tree_is_settled_for_its_place(host: Host) -> None:
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")
    tree = host.tree()
    jvm = tree / "usr/lib/jvm/java-99-openjdk"
    assert (jvm / "conf").readlink() == tree / "etc/java-99"
    # Not in the packages: the host's, if any.
    assert (jvm / "cacerts").readlink() == Path("/etc/ssl/certs/java/cacerts")
    loader = f"{tree}/usr/lib/test-linux-gnu/ld-linux-test.so.2"
    patched = dict(
        line.removesuffix(loader).rsplit(" ", 1)
        for line in (tree / "patched").read_text().splitlines()
    )
    assert set(patched) == {
        f"{tree}/usr/bin/bazel",
        f"{jvm}/bin/java",
        f"{jvm}/lib/jspawnhelper",
        f"{tree}/usr/libexec/test-linux-gnu/bazel/linux-sandbox",
    }
    classpath = (
        (tree / "usr/share/bazel/bazel_classpath_debian_depends.txt").read_text().splitlines()
    )
    assert classpath == [f"{tree}/usr/share/java/{jar}.jar" for jar in ["a", *JARS.split()]]
    assert not (tree / "usr/share/doc").exists()


def test_rc_names_every_module(host: Host) -> None:
    host.run("--version")
    (rc,) = host.tree().glob("rc/*/bazelrc")
    overrides = [line for line in rc.read_text().splitlines() if "--override_module=" in line]
    assert len(overrides) == 13
    for line in overrides:
        module, place = line.removeprefix('common "--override_module=').removesuffix('"').split("=")
        assert (Path(place) / "MODULE.bazel").is_file(), module
    assert (host.tree() / "empty/zlib/MODULE.bazel").read_text() == 'module(name = "zlib")\n'


def test_second_run_is_quiet_and_asks_apt_nothing(host: Host) -> None:
    host.run("--version")
    for tool in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
        host.program(tool, "exit 1")
    assert host.run("--version") == (0, "bazel 7.7.1\n", "")


def test_runs_from_anywhere(host: Host) -> None:
    host.run("--version")
    below = host.checkout / "zml/deep"
    below.mkdir(parents=True)
    link, chain = host.root / "a link", below / "chain"
    link.symlink_to(host.checkout / "bazel")
    chain.symlink_to("../../bazel")
    (host.bin / "zml-bazel").symlink_to(link)
    for wrapper in (host.checkout / "bazel", "../../bazel", link, "./chain", "zml-bazel"):
        code, out, err = host.run("info", cwd=below, wrapper=wrapper)
        assert (code, out.splitlines()[-1], err) == (0, "info", ""), wrapper


def test_changed_modules_need_no_download(host: Host) -> None:
    host.run("--version")
    host.program("apt-get", "exit 1")
    (host.checkout / "tools/bootstrap/modules.txt").write_text("zlib empty\n")
    code, out, err = host.run("build")
    assert (code, err) == (0, "")
    rc = Path(out.splitlines()[4].removeprefix("--bazelrc="))
    assert rc.read_text().count("--override_module") == 1


def test_changed_packages_make_a_tree_of_their_own(host: Host) -> None:
    host.run("--version")
    first = host.tree()
    listing = host.checkout / "tools/bootstrap/packages.txt"
    listing.write_text(listing.read_text() + "\ndrop usr/share/bazel/rules/proto\n")
    assert host.run("--version")[0] == 0
    (second,) = (
        launcher.parent for launcher in host.trees.glob("*/bazel") if launcher.parent != first
    )
    assert (first / "usr/share/bazel/rules/proto").exists()
    assert not (second / "usr/share/bazel/rules/proto").exists()


def test_moved_cache_is_not_used(host: Host) -> None:
    host.run("--version")
    host.env["HOME"] = str(host.home.rename(host.root / "new home"))
    host.trees = host.root / "new home/.cache/zml/bazel"
    code, out, err = host.run("build")
    assert code == 0
    assert "a home" not in out
    assert "Bazel is ready" in err


def test_xdg_cache_home(host: Host) -> None:
    host.env["XDG_CACHE_HOME"] = str(host.root / "xdg cache")
    del host.env["HOME"]
    assert host.run("--version")[0] == 0
    assert list((host.root / "xdg cache/zml/bazel").glob("*/bazel"))


@pytest.mark.parametrize("only_the_shell", [False, True])
def test_killed_provision_is_begun_anew(host: Host, only_the_shell: bool) -> None:
    # The third package never unpacks. Its process outlives a kill of the shell alone, and must
    # not keep the lock.
    host.program(
        "dpkg-deb", f'[[ -e "{host.root}/go" || $2 != *jre-99* ]] || sleep 1000\nexec $REAL "$@"'
    )
    first = host.start("--version")
    wait_for(first, lambda: list(host.trees.glob("work.*/tree/usr/share/bazel")))
    (work,) = host.trees.glob("work.*")
    if only_the_shell:
        os.kill(int(work.name.removeprefix("work.")), signal.SIGKILL)
    else:
        os.killpg(first.pid, signal.SIGKILL)
    (host.root / "go").touch()
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n"), err
    assert not work.exists()
    if only_the_shell:
        os.killpg(first.pid, signal.SIGKILL)
    first.communicate()


def test_half_a_tree_is_not_used(host: Host) -> None:
    host.run("--version")
    tree = host.tree()
    (tree / "bazel").unlink()  # as when the machine goes down before the last step
    (tree / "usr/bin/bazel").unlink()
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")


def test_what_is_no_tree_is_ignored(host: Host) -> None:
    other = host.trees / "other"
    other.mkdir(parents=True)
    (other / "bazel").write_text("#!/bin/sh\nexit 3\n")
    (other / "bazel").chmod(0o755)
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")
    assert host.run("--version") == (0, "bazel 7.7.1\n", "")


def test_interrupt_leaves_nothing(host: Host) -> None:
    host.program("dpkg-deb", f'touch "{host.root}/begun"\nsleep 1000')
    first = host.start("--version")
    wait_for(first, (host.root / "begun").exists)
    os.killpg(first.pid, signal.SIGINT)
    out, _ = first.communicate()
    assert first.returncode != 0
    assert out == ""
    assert [path.name for path in host.trees.iterdir()] == ["lock"]


def test_two_at_once_bring_one(host: Host) -> None:
    log, go = host.root / "log", host.root / "go"
    host.program(
        "dpkg-deb",
        f'echo x >> "{log}"\nwhile [[ ! -e "{go}" ]]; do sleep 0.02; done\nexec $REAL "$@"',
    )
    first = host.start("--version")
    wait_for(first, log.exists)
    second = host.start("--version")
    assert second.stderr is not None
    assert "another process is bringing Bazel" in second.stderr.readline()
    go.touch()
    assert first.communicate()[0] == "bazel 7.7.1\n"
    assert second.communicate() == ("bazel 7.7.1\n", "")
    assert log.read_text().count("x") == 7
