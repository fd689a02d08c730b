"""The wrapper ./bazel: what it runs, how it brings a Bazel, and what it says when it cannot.

Everything happens against a mirror of local files that holds shell scripts in place of Bazel, Java and patchelf, with
the host's real apt and dpkg. PATH is a folder of links to TOOLS, which is thus all that a host has to have.
"""

import base64
import functools
import http.server
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tools.bootstrap.fake_mirror import Package, write_mirror
from tools.bootstrap.fake_pgp import Key

pytestmark = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this host has no apt")

ROOT = Path(__file__).parents[2]
KEY = Key("archive of the test")
TOOLS = """apt-cache apt-get awk bash cat chmod cp cut df dpkg dpkg-deb du env find flock grep head ln ls mkdir mv printf
readlink rm sed sh sha256sum sort tail tar touch tr xargs""".split()
TOOLS += "apt-key cmp gpgv id mktemp apt-config".split()  # called by the apt of Debian 12 itself

LOADER = '#!/bin/sh\n[ "$1" = --library-path ] && shift 2\nexec "$@"\n'
PATCHELF = '#!/bin/sh\nfor file; do :; done\necho "$file $2" >> "${0%/usr/bin/*}/patched"\n'
BAZEL = '#!/bin/sh\nfor a; do [ "$a" = --version ] && echo "bazel 7.7.1" && exit; done\nprintf "%s\\n" "$@"\n'
SCRIPT = "#!/bin/sh\n"
JARS = "perfmark-api perfmark-impl opencensus-api opencensus-contrib-http-util google-http-client-jackson2 jackson-core"
MODULES = "tools/features tools/platforms tools/skylib rules/cc rules/java rules/license rules/proto rules/python"


@functools.cache
def architecture() -> str:
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def packages() -> list[Package]:
    """What packages.txt asks for, small; what it leaves out is in the index alone and could not be downloaded."""
    lib = "usr/lib/test-linux-gnu"
    jvm = "usr/lib/jvm/java-99-openjdk"
    bazel = {
        "usr/bin/bazel": BAZEL,
        "usr/share/bazel/bazel_classpath_debian_depends.txt": "/usr/share/java/a.jar\n/usr/share/java/gone.jar\n",
        "usr/share/bazel/linux-sandbox": Path("../../libexec/test-linux-gnu/bazel/linux-sandbox"),
        "usr/libexec/test-linux-gnu/bazel/linux-sandbox": SCRIPT,
        "usr/share/java/a.jar": "jar",
        "usr/share/doc/bazel/copyright": "dropped",
    }
    bazel |= {f"usr/share/bazel/{place}/MODULE.bazel": "" for place in MODULES.split()}
    java = {
        f"{jvm}/bin/java": SCRIPT,
        f"{jvm}/lib/jspawnhelper": SCRIPT,
        f"{jvm}/conf": Path("/etc/java-99"),
        f"{jvm}/cacerts": Path("/etc/ssl/certs/java/cacerts"),
        "etc/java-99/logging.properties": "",
        "usr/lib/jvm/default-java": Path("java-99-openjdk"),
    }
    return [
        Package("bazel-bootstrap", bazel, "bazel-jars, libc6, build-essential, python3 (<< 9)", "7.7.1+ds-8"),
        Package("bazel-jars", {f"usr/share/java/{jar}.jar": "jar" for jar in JARS.split()}),
        Package("bazel-rules-shell", {"usr/share/bazel/rules/shell/MODULE.bazel": ""}),
        Package("default-jre-headless", {}, "jre-99, java-common (>= 0.5)", "2:1.99-1"),
        Package("jre-99", java, "libc6"),
        Package("libc6", {f"{lib}/ld-linux-test.so.2": LOADER}, architecture=architecture()),
        Package("patchelf", {"usr/bin/patchelf": PATCHELF}, "libc6"),
        Package("build-essential", depends="gcc", in_pool=False),
        Package("python3", version="3.99-1", in_pool=False),
        Package("java-common", version="0.77", in_pool=False),
        Package("gcc", in_pool=False),
    ]


@dataclass
class Host:
    """A machine: a checkout, a HOME, a PATH, a mirror. All its paths hold spaces."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.checkout, self.home, self.bin = self.root / "my checkout", self.root / "a home", self.root / "bin"
        self.mirror, self.keyring = self.root / "a mirror", self.root / "a key.gpg"
        self.trees = self.home / ".cache/zml/bazel"
        (self.checkout / "tools/bootstrap").mkdir(parents=True)
        shutil.copy(ROOT / "bazel", self.checkout / "bazel")
        for source in [*ROOT.glob("tools/bootstrap/*.sh"), *ROOT.glob("tools/bootstrap/*.txt")]:
            shutil.copy(source, self.checkout / "tools/bootstrap")
        self.home.mkdir()
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool, path="/usr/bin:/bin"):
                (self.bin / tool).symlink_to(found)
        self.keyring.write_bytes(KEY.public())
        self.publish(packages())
        self.env |= {"HOME": str(self.home), "PATH": str(self.bin)}
        self.env |= {"ZML_DEBIAN_MIRROR": f"file:{self.mirror}", "ZML_DEBIAN_KEYRING": str(self.keyring)}

    def publish(self, what: list[Package], key: Key = KEY, suite: str = "forky") -> None:
        shutil.rmtree(self.mirror, ignore_errors=True)
        write_mirror(self.mirror, what, architecture(), key, suite)

    def program(self, name: str, script: str) -> Path:
        """Puts a script on PATH, before the real tool of that name; `$REAL` in it is that tool."""
        path = self.bin / name
        real = shutil.which(name, path="/usr/bin:/bin")
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\nREAL={real}\n{script}\n")
        path.chmod(0o755)
        return path

    def start(self, *args: str, cwd: Path | None = None, wrapper: Path | str | None = None) -> subprocess.Popen[str]:
        command = [str(wrapper or self.checkout / "bazel"), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=cwd or self.checkout, env=self.env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *args: str, cwd: Path | None = None, wrapper: Path | str | None = None) -> tuple[int, str, str]:
        process = self.start(*args, cwd=cwd, wrapper=wrapper)
        out, err = process.communicate()
        return process.returncode, out, err

    def error(self, *args: str) -> str:
        """Runs what must fail: with code 1, nothing on stdout, one message with all its parts, nothing left behind."""
        code, out, err = self.run(*args)
        assert (code, out) == (1, ""), err
        assert err.count("bazel: error: ") == 1
        assert "\n  given:    " in err and "\n  expected: " in err and "\n  to mend:  " in err
        assert not list(self.trees.glob("work.*"))
        assert not list(self.trees.glob("*/bazel"))
        return err

    def tree(self) -> Path:
        (tree,) = (launcher.parent for launcher in self.trees.glob("*/bazel"))
        return tree


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    yield Host(tmp_path)


def wait_for(what: Callable[[], object]) -> None:
    while not what():
        time.sleep(0.02)


def test_brings_bazel_and_runs_it(host: Host) -> None:
    code, out, err = host.run("--output_base=/x y", "build", "//a b:c", "--", "-d")
    assert code == 0, err
    tree = host.tree()
    args = out.splitlines()
    assert args[:3] == ["--nosystem_rc", f"--install_base={tree}/usr/share/bazel", "--trust_install_base"]
    assert args[3] == f"--server_javabase={tree}/usr/lib/jvm/java-99-openjdk"
    assert args[4].startswith(f"--bazelrc={tree}/rc/")
    assert args[5:] == ["--output_base=/x y", "build", "//a b:c", "--", "-d"]
    for step in ("[1/4] package index", "[2/4] downloading 7 packages", "[3/4] unpacking", "[4/4]", "Bazel is ready"):
        assert step in err


def test_the_tree_is_settled_for_its_place(host: Host) -> None:
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")
    tree = host.tree()
    jvm = tree / "usr/lib/jvm/java-99-openjdk"
    assert os.readlink(jvm / "conf") == f"{tree}/etc/java-99"
    assert os.readlink(jvm / "cacerts") == "/etc/ssl/certs/java/cacerts"  # not in the packages: the host's, if any
    loader = f"{tree}/usr/lib/test-linux-gnu/ld-linux-test.so.2"
    patched = dict(line.removesuffix(loader).rsplit(" ", 1) for line in (tree / "patched").read_text().splitlines())
    assert set(patched) == {
        f"{tree}/usr/bin/bazel",
        f"{jvm}/bin/java",
        f"{jvm}/lib/jspawnhelper",
        f"{tree}/usr/libexec/test-linux-gnu/bazel/linux-sandbox",
    }
    classpath = (tree / "usr/share/bazel/bazel_classpath_debian_depends.txt").read_text().splitlines()
    assert classpath == [f"{tree}/usr/share/java/{jar}.jar" for jar in ["a", *JARS.split()]]
    assert not (tree / "usr/share/doc").exists()


def test_rc_names_every_module(host: Host) -> None:
    host.run("--version")
    (rc,) = host.tree().glob("rc/*.bazelrc")
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
    (second,) = (launcher.parent for launcher in host.trees.glob("*/bazel") if launcher.parent != first)
    assert (first / "usr/share/bazel/rules/proto").exists()
    assert not (second / "usr/share/bazel/rules/proto").exists()


def test_moved_cache_is_not_used(host: Host) -> None:
    host.run("--version")
    host.env["HOME"] = str(host.home.rename(host.root / "new home"))
    host.trees = host.root / "new home/.cache/zml/bazel"
    code, out, err = host.run("build")
    assert code == 0 and "a home" not in out and "Bazel is ready" in err


def test_xdg_cache_home(host: Host) -> None:
    host.env["XDG_CACHE_HOME"] = str(host.root / "xdg cache")
    del host.env["HOME"]
    assert host.run("--version")[0] == 0
    assert list((host.root / "xdg cache/zml/bazel").glob("*/bazel"))


@pytest.mark.parametrize("only_the_shell", [False, True])
def test_killed_provision_is_begun_anew(host: Host, only_the_shell: bool) -> None:
    # The third package never unpacks. Its process outlives a kill of the shell alone, and must not keep the lock.
    host.program("dpkg-deb", f'[[ -e "{host.root}/go" || $2 != *jre-99* ]] || sleep 1000\nexec $REAL "$@"')
    first = host.start("--version")
    wait_for(lambda: list(host.trees.glob("work.*/tree/usr/share/bazel")))
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


def test_interrupt_leaves_nothing(host: Host) -> None:
    host.program("dpkg-deb", f'touch "{host.root}/begun"\nsleep 1000')
    first = host.start("--version")
    wait_for((host.root / "begun").exists)
    os.killpg(first.pid, signal.SIGINT)
    out, _ = first.communicate()
    assert first.returncode != 0 and out == ""
    assert [path.name for path in host.trees.iterdir()] == ["lock"]


def test_two_at_once_bring_one(host: Host) -> None:
    log, go = host.root / "log", host.root / "go"
    host.program("dpkg-deb", f'echo x >> "{log}"\nwhile [[ ! -e "{go}" ]]; do sleep 0.02; done\nexec $REAL "$@"')
    first = host.start("--version")
    wait_for(log.exists)
    second = host.start("--version")
    assert second.stderr is not None
    assert "another process is bringing Bazel" in second.stderr.readline()
    go.touch()
    assert first.communicate()[0] == "bazel 7.7.1\n"
    assert second.communicate() == ("bazel 7.7.1\n", "")
    assert log.read_text().count("x") == 7


# --- which Bazel -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("version", ["bazel 7.7.0", "bazel 7.10.1", "bazel 8.0.0rc1", "bazel 10.0.0- (@non-git)"])
def test_bazel_on_path_is_taken_as_it_is(host: Host, version: str) -> None:
    host.program("bazel", f'[[ $1 == --version ]] && echo "{version}" || echo "$@"')
    assert host.run("--batch", "build") == (0, "--batch build\n", "")


@pytest.mark.parametrize(
    "script, reason",
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


def test_wrappers_on_path_do_not_call_each_other_for_ever(host: Host) -> None:
    (host.bin / "bazel").symlink_to(host.checkout / "bazel")
    other = host.root / "other"
    shutil.copytree(host.checkout, other)
    folder = host.root / "bin2"
    folder.mkdir()
    (folder / "bazel").symlink_to(other / "bazel")
    host.env["PATH"] = f"{folder}:{host.bin}"
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n")
    assert "it is this wrapper" in err and "it does not tell its version" in err


# --- the mirror ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("list", "deb file:/nowhere bookworm-updates main\ndeb [arch=ARCH trusted=yes] MIRROR stable contrib main\n"),
        ("list", "# deb file:/nowhere stable main\ndeb-src file:/nowhere stable main\ndeb MIRROR testing main\n"),
        (
            "sources",
            "Types: deb\nURIs: file:/nowhere\nSuites: stable\nComponents: main\nEnabled: no\n\n"
            "# comment\nTypes: deb deb-src\nURIs: MIRROR\nSuites: stable stable-updates\nComponents: main non-free\n",
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
    text = text.replace("MIRROR", mirror).replace("LIST", str(listing)).replace("ARCH", architecture())
    (parts / f"test.{name}").write_text(text)
    apt_conf(host, f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "{parts}";')
    del host.env["ZML_DEBIAN_MIRROR"]
    code, out, err = host.run("--version")
    assert (code, out) == (0, "bazel 7.7.1\n"), err


def test_no_mirror_known(host: Host) -> None:
    apt_conf(host, 'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";')
    del host.env["ZML_DEBIAN_MIRROR"]
    err = host.error()
    assert "no Debian mirror is known" in err and "set ZML_DEBIAN_MIRROR" in err


def apt_conf(host: Host, text: str) -> None:
    path = host.root / "apt.conf"
    path.write_text(text)
    host.env["APT_CONFIG"] = str(path)


def test_only_the_reach_of_the_hosts_apt_settings_counts(host: Host) -> None:
    hook = host.root / "hook"
    apt_conf(
        host,
        f'APT::Default-Release "nonsense"; APT::Install-Recommends "true"; APT::Architectures {{ "riscv64"; }};'
        f'APT::Update::Post-Invoke {{ "touch \'{hook}\'"; }}; APT::Update::Pre-Invoke {{ "touch \'{hook}\'"; }};'
        f'DPkg::Pre-Invoke {{ "touch \'{hook}\'"; }}; Dir::State "/nowhere"; Dir::Cache::archives "/nowhere";',
    )
    assert host.run("--version")[:2] == (0, "bazel 7.7.1\n")
    assert not hook.exists()


@pytest.fixture
def server(host: Host) -> Iterator[str]:
    """Serves the mirror, to who gives the password, and as a proxy for any host."""
    want = "Basic " + base64.b64encode(b"user:pass").decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            proxied = self.path.startswith("http://")
            allowed = proxied or self.headers.get("Authorization") == want
            path = urllib.parse.unquote(self.path).removeprefix("http://mirror.invalid")
            file = host.mirror / path.lstrip("/")
            body = file.read_bytes() if allowed and file.is_file() else b""
            self.send_response(200 if body else 404 if allowed else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


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
    assert "secret" not in err and "127.0.0.1:9/debian" in err


# --- errors ----------------------------------------------------------------------------------------------------------


def test_mirror_out_of_reach(host: Host) -> None:
    host.env["ZML_DEBIAN_MIRROR"] = "file:/nowhere/debian"
    err = host.error()
    assert "no Debian mirror in reach" in err and "file:/nowhere/debian from ZML_DEBIAN_MIRROR" in err


def test_mirror_without_the_suite(host: Host) -> None:
    host.publish(packages(), suite="noble")
    err = host.error()
    assert "no Debian mirror in reach" in err and "Ubuntu" in err


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
    assert "not signed by Debian's archive" in err and str(host.keyring) in err


def test_signature_is_checked_even_if_the_host_does_not(host: Host) -> None:
    (host.mirror / "dists/forky/Release.gpg").unlink()
    apt_conf(host, 'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";')
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
    assert "cannot resolve the packages" in err and "bazel-bootstrap" in err


@pytest.mark.parametrize("lost", ["libc6", "bazel-jars", "jre-99"])
def test_suite_with_other_contents(host: Host, lost: str) -> None:
    host.publish([Package(p.name, {}, p.depends) if p.name == lost else p for p in packages()])
    assert "correct tools/bootstrap/packages.txt" in host.error()


def test_bazel_that_does_not_run(host: Host) -> None:
    broken = {"usr/lib/jvm/java-99-openjdk/bin/java": "#!/bin/sh\necho no libjvm >&2\nexit 1\n"}
    host.publish([Package("jre-99", broken) if p.name == "jre-99" else p for p in packages()])
    err = host.error()
    assert "cannot run the Bazel that was unpacked" in err and "no libjvm" in err


def test_missing_keyring(host: Host) -> None:
    host.env["ZML_DEBIAN_KEYRING"] = "/nowhere/keyring.gpg"
    err = host.error()
    assert "keys of Debian's archive are missing" in err and "/nowhere/keyring.gpg" in err


def test_too_little_disk(host: Host) -> None:
    huge = Package("libc6", architecture=architecture(), installed_size=1 << 50)
    host.publish([huge if p.name == "libc6" else p for p in packages()])
    assert "the disk is too full for Bazel" in host.error()


@pytest.mark.parametrize("tool, step", [("apt-get", "*APT::Status-Fd*"), ("tar", "*"), ("mv", "*/tree *")])
def test_disk_that_fills_up(host: Host, tool: str, step: str) -> None:
    full = 'echo "x: No space left on device" >&2; exit 2'
    host.program(tool, f'[[ $* != {step.replace(" ", "?")} ]] || {{ {full}; }}\nexec $REAL "$@"')
    assert "the disk is full" in host.error()


def test_unsupported_architecture(host: Host) -> None:
    host.program("dpkg", "echo riscv64")
    err = host.error()
    assert "architecture riscv64" in err and "amd64 or arm64" in err


def test_not_debian(host: Host) -> None:
    (host.bin / "apt-get").unlink()
    err = host.error()
    assert "not a Debian-family host" in err and "install bazelisk" in err


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
