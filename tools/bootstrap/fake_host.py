"""A machine for the tests of ./bazel: a checkout, a HOME, a mirror of local files, the host's apt.

The mirror holds shell scripts in place of Bazel, Java and patchelf. PATH is a folder of links to
TOOLS, which is thus all that a host has to have.
"""

import functools
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tools.bootstrap.fake_mirror import Package, write_mirror
from tools.bootstrap.fake_pgp import Key

ROOT = Path(__file__).parents[2]
KEY = Key("archive of the test")
TOOLS = (
    "apt-cache apt-get awk bash cat chmod cp cut df dpkg dpkg-deb du env find flock grep head ln "
    "ls mkdir mv printf readlink rm sed sh sha256sum sort tail tar touch tr xargs "
    "apt-config apt-key cmp gpgv id mktemp"  # these for apt itself, on Debian 12
)

LOADER = '#!/bin/sh\n[ "$1" = --library-path ] && shift 2\nexec "$@"\n'
PATCHELF = '#!/bin/sh\nfor file; do :; done\necho "$file $2" >> "${0%/usr/bin/*}/patched"\n'
BAZEL = """#!/bin/sh
for a; do [ "$a" = --version ] && echo "bazel 7.7.1" && exit; done
printf "%s\\n" "$@"
"""
SCRIPT = "#!/bin/sh\n"
JARS = (
    "perfmark-api perfmark-impl opencensus-api opencensus-contrib-http-util "
    "google-http-client-jackson2 jackson-core"
)
MODULES = (
    "tools/features tools/platforms tools/skylib "
    "rules/cc rules/java rules/license rules/proto rules/python"
)


@functools.cache
def architecture() -> str:
    """The host's architecture, in dpkg's words."""
    return subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip()


def packages() -> list[Package]:
    """What packages.txt asks for, small.

    What it leaves out is in the index alone: whoever wants it gets an error.
    """
    lib = "usr/lib/test-linux-gnu"
    jvm = "usr/lib/jvm/java-99-openjdk"
    classpath = "usr/share/bazel/bazel_classpath_debian_depends.txt"
    bazel: dict[str, str | Path] = {
        "usr/bin/bazel": BAZEL,
        classpath: "/usr/share/java/a.jar\n/usr/share/java/gone.jar\n",
        "usr/share/bazel/linux-sandbox": Path("../../libexec/test-linux-gnu/bazel/linux-sandbox"),
        "usr/libexec/test-linux-gnu/bazel/linux-sandbox": SCRIPT,
        "usr/share/java/a.jar": "jar",
        "usr/share/doc/bazel/copyright": "dropped",
    }
    bazel |= {f"usr/share/bazel/{place}/MODULE.bazel": "" for place in MODULES.split()}
    java: dict[str, str | Path] = {
        f"{jvm}/bin/java": SCRIPT,
        f"{jvm}/lib/jspawnhelper": SCRIPT,
        f"{jvm}/conf": Path("/etc/java-99"),
        f"{jvm}/cacerts": Path("/etc/ssl/certs/java/cacerts"),
        "etc/java-99/logging.properties": "",
        "usr/lib/jvm/default-java": Path("java-99-openjdk"),
    }
    return [
        Package(
            "bazel-bootstrap",
            bazel,
            "bazel-jars, libc6, build-essential, python3 (<< 9)",
            "7.7.1+ds-8",
        ),
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
        self.checkout, self.home, self.bin = (
            self.root / "my checkout",
            self.root / "a home",
            self.root / "bin",
        )
        self.mirror, self.keyring = self.root / "a mirror", self.root / "a key.gpg"
        self.trees = self.home / ".cache/zml/bazel"
        (self.checkout / "tools/bootstrap").mkdir(parents=True)
        shutil.copy(ROOT / "bazel", self.checkout / "bazel")
        for source in [*ROOT.glob("tools/bootstrap/*.sh"), *ROOT.glob("tools/bootstrap/*.txt")]:
            shutil.copy(source, self.checkout / "tools/bootstrap")
        self.home.mkdir()
        self.bin.mkdir()
        for tool in TOOLS.split():
            if found := shutil.which(tool, path="/usr/bin:/bin"):
                (self.bin / tool).symlink_to(found)
        self.keyring.write_bytes(KEY.public())
        self.publish(packages())
        self.env |= {"HOME": str(self.home), "PATH": str(self.bin)}
        self.env |= {
            "ZML_DEBIAN_MIRROR": f"file:{self.mirror}",
            "ZML_DEBIAN_KEYRING": str(self.keyring),
        }

    def publish(self, what: list[Package], key: Key = KEY, suite: str = "forky") -> None:
        """Makes `what` all that the mirror has."""
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

    def start(
        self, *args: str, cwd: Path | None = None, wrapper: Path | str | None = None
    ) -> subprocess.Popen[str]:
        """Starts ./bazel in a session, and so a process group, of its own."""
        command = [str(wrapper or self.checkout / "bazel"), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=cwd or self.checkout,
            env=self.env,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def run(
        self, *args: str, cwd: Path | None = None, wrapper: Path | str | None = None
    ) -> tuple[int, str, str]:
        """Runs ./bazel; returns its exit code, stdout and stderr."""
        process = self.start(*args, cwd=cwd, wrapper=wrapper)
        out, err = process.communicate()
        return process.returncode, out, err

    def error(self, *args: str) -> str:
        """Runs what must fail: with code 1, one whole message, and nothing left behind."""
        code, out, err = self.run(*args)
        assert (code, out) == (1, ""), err
        assert err.count("bazel: error: ") == 1
        assert "\n  given:    " in err
        assert "\n  expected: " in err
        assert "\n  to mend:  " in err
        assert not list(self.trees.glob("work.*"))
        assert not list(self.trees.glob("*/bazel"))
        return err

    def tree(self) -> Path:
        """The one tree that has been provisioned."""
        (tree,) = (launcher.parent for launcher in self.trees.glob("*/bazel"))
        return tree


def wait_for(process: subprocess.Popen[str], what: Callable[[], object]) -> None:
    """Returns once `what` gives something, which `process` is to bring about."""
    while not what():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def apt_conf(host: Host, text: str) -> None:
    """Makes `text` the first of the host's apt settings."""
    path = host.root / "apt.conf"
    path.write_text(text)
    host.env["APT_CONFIG"] = str(path)
