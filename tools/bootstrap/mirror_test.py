"""Where ./bazel gets packages from, what of the host's apt settings counts, and how it fails."""

import pytest

from tools.bootstrap.fake_host import Host, apt_conf, architecture, packages
from tools.bootstrap.fake_mirror import Package
from tools.bootstrap.fake_pgp import Key


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "list",
            "deb file:/nowhere old-updates main\ndeb [arch=ARCH] MIRROR stable contrib main\n",
        ),
        (
            "list",
            "# deb file:/nowhere stable main\ndeb-src file:/no sid main\ndeb MIRROR sid main\n",
        ),
        (
            "sources",
            "Types: deb\nURIs: file:/nowhere\nSuites: stable\nComponents: main\nEnabled: no\n\n"
            "# comment\nTypes: deb deb-src\nURIs: MIRROR\nSuites: stable stable-updates\n"
            "Components: main non-free\n",
        ),
        ("list", "deb mirror+file:LIST forky main\n"),
    ],
)
def test_mirror_is_read_from_the_host(host: Host, server: str, name: str, text: str) -> None:
    mirror = "file:" + str(host.mirror).replace(" ", "%20")
    listing = host.root / "mirrors"
    listing.write_text(f"http://user:pass@{server}/\n")
    parts = host.root / "sources.d"
    parts.mkdir()
    text = (
        text.replace("MIRROR", mirror).replace("LIST", str(listing)).replace("ARCH", architecture())
    )
    (parts / f"test.{name}").write_text(text)
    apt_conf(host, f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}";')
    del host.env["ZML_DEBIAN_MIRROR"]
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n"), err


def test_no_mirror_known(host: Host) -> None:
    apt_conf(host, 'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";')
    del host.env["ZML_DEBIAN_MIRROR"]
    err = host.error()
    assert "no Debian mirror is known" in err
    assert "set ZML_DEBIAN_MIRROR" in err


def test_only_the_reach_of_the_hosts_apt_settings_counts(host: Host) -> None:
    hook = host.root / "hook"
    touch = f"{{ \"touch '{hook}'\"; }};"
    apt_conf(
        host,
        'APT::Default-Release "nonsense"; APT::Install-Recommends "true";'
        'APT::Architectures { "riscv64"; };'
        f"APT::Update::Pre-Invoke {touch} APT::Update::Post-Invoke {touch} DPkg::Pre-Invoke {touch}"
        'Dir::State "/nowhere"; Dir::Cache::archives "/nowhere";',
    )
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")
    assert not hook.exists()


def test_the_hosts_proxy_is_used(host: Host, server: str) -> None:
    apt_conf(host, f'Acquire::http::Proxy "http://{server}";')
    host.env["ZML_DEBIAN_MIRROR"] = "http://mirror.invalid"
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n"), err


def test_the_hosts_credentials_are_used(host: Host, server: str) -> None:
    (host.root / "auth.conf").write_text(f"machine http://{server} login user password pass\n")
    apt_conf(host, f'Dir::Etc::netrc "{host.root}/auth.conf"; Acquire::http::Proxy "DIRECT";')
    host.env["ZML_DEBIAN_MIRROR"] = f"http://{server}"
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n"), err


def test_credentials_are_not_shown(host: Host) -> None:
    apt_conf(host, 'Acquire::Retries "0"; Acquire::http::Proxy "DIRECT";')
    host.env["ZML_DEBIAN_MIRROR"] = "http://user:secret@127.0.0.1:9/debian"
    err = host.error()
    assert "secret" not in err
    assert "127.0.0.1:9/debian" in err


def test_mirror_out_of_reach(host: Host) -> None:
    host.env["ZML_DEBIAN_MIRROR"] = "file:/nowhere/debian"
    err = host.error()
    assert "no Debian mirror in reach" in err
    assert "file:/nowhere/debian from ZML_DEBIAN_MIRROR" in err


def test_mirror_without_the_suite(host: Host) -> None:
    host.publish(packages(), suite="noble")
    err = host.error()
    assert "no Debian mirror in reach" in err
    assert "Ubuntu" in err


@pytest.mark.parametrize("damage", ["unsigned", "other key", "changed", "no signature"])
def test_bad_signature(host: Host, damage: str) -> None:
    release = host.mirror / "dists/forky/Release"
    if damage == "unsigned":
        release.with_suffix(".gpg").unlink()
    elif damage == "other key":
        host.publish(packages(), Key("somebody else"))
    elif damage == "changed":
        release.write_text(release.read_text().replace("Origin: Test", "Origin: Evil"))
    else:
        release.with_suffix(".gpg").write_text("not a signature\n")
    err = host.error()
    assert "not signed by Debian's archive" in err
    assert str(host.keyring) in err


def test_signature_is_checked_even_if_the_host_does_not(host: Host) -> None:
    (host.mirror / "dists/forky/Release.gpg").unlink()
    apt_conf(
        host, 'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";'
    )
    assert "not signed by Debian's archive" in host.error()


def test_changed_index(host: Host) -> None:
    listing = host.mirror / f"dists/forky/main/binary-{architecture()}/Packages"
    listing.write_text(listing.read_text().replace("made for a test", "made for a tent"))
    assert "does not fit its signature" in host.error()


def test_changed_package(host: Host) -> None:
    (deb,) = host.mirror.glob("pool/patchelf_*.deb")
    deb.write_bytes(deb.read_bytes().replace(b"debian-binary", b"debian-b1nary"))
    assert "cannot download the packages" in host.error()


def test_missing_package_file(host: Host) -> None:
    (deb,) = host.mirror.glob("pool/patchelf_*.deb")
    deb.unlink()
    assert "cannot download the packages" in host.error()


def test_suite_without_bazel(host: Host) -> None:
    host.publish([package for package in packages() if package.name != "bazel-bootstrap"])
    err = host.error()
    assert "cannot resolve the packages" in err
    assert "bazel-bootstrap" in err


@pytest.mark.parametrize("lost", ["libc6", "bazel-jars", "jre-99"])
def test_suite_with_other_contents(host: Host, lost: str) -> None:
    host.publish([Package(p.name, {}, p.depends) if p.name == lost else p for p in packages()])
    assert "correct tools/bootstrap/packages.txt" in host.error()


def test_bazel_that_does_not_run(host: Host) -> None:
    broken = {"usr/lib/jvm/java-99-openjdk/bin/java": "#!/bin/sh\necho no libjvm >&2\nexit 1\n"}
    host.publish([Package("jre-99", broken) if p.name == "jre-99" else p for p in packages()])
    err = host.error()
    assert "cannot run the Bazel that was unpacked" in err
    assert "no libjvm" in err


def test_missing_keyring(host: Host) -> None:
    host.env["ZML_DEBIAN_KEYRING"] = "/nowhere/keyring.gpg"
    err = host.error()
    assert "keys of Debian's archive are missing" in err
    assert "/nowhere/keyring.gpg" in err


def test_too_little_disk(host: Host) -> None:
    huge = Package("libc6", architecture=architecture(), installed_size=1 << 50)
    host.publish([huge if p.name == "libc6" else p for p in packages()])
    assert "the disk is too full for Bazel" in host.error()


@pytest.mark.parametrize(
    ("tool", "step"), [("apt-get", "*APT::Status-Fd*"), ("tar", "*"), ("mv", "*/tree *")]
)
def test_disk_that_fills_up(host: Host, tool: str, step: str) -> None:
    full = 'echo "x: No space left on device" >&2; exit 2'
    host.program(tool, f'[[ $* != {step.replace(" ", "?")} ]] || {{ {full}; }}\nexec $REAL "$@"')
    assert "the disk is full" in host.error()
