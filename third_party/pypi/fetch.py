"""Downloads one wheel with pip, as this host has configured it, and unpacks or keeps it where it is run.

A wheel is named by its hash: the index, mirror, proxy or folder that pip finds it in is no matter.
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

# Test modules are a quarter of numpy's files; Bazel would take the others for packages of its own.
UNUSED = (
    "*/tests/test_*.py",
    "*/tests/*/test_*.py",
    "*/BUILD",
    "*/BUILD.bazel",
    "*/WORKSPACE",
    "*/MODULE.bazel",
)

# pip reports every attempt; the last one is enough.
RETRY = re.compile(r"^WARNING: Retrying \(Retry\(total=[1-9].*\n", re.MULTILINE)


def pip_arguments(file: str) -> list[str]:
    """The options with which pip takes the wheel `file` on any host, from the tags in its name."""
    platforms = file.removesuffix(".whl").split("-")[-1]
    arguments = ["--implementation", "cp", "--python-version", "3.13"]
    for name in ("cp313", "abi3", "none"):
        arguments += ["--abi", name]
    for name in platforms.split("."):
        arguments += ["--platform", name]
    return arguments


def download(
    requirement: str,
    file: str,
    sha256: str,
    folder: Path,
    pip: str | None,
    lock: str = "//third_party/pypi:lock",
    *,
    cache: bool = True,
) -> Path:
    """Path of the verified wheel in `folder`; SystemExit with one message if pip cannot get it."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    run = [sys.executable, "-I", pip] if pip else [sys.executable, "-m", "pip"]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    options += ["--no-cache-dir"] if not cache else []
    options += ["--require-hashes", f"--dest={folder}", f"--requirement={pinned}"]
    command = [*run, "download", *options, *pip_arguments(file)]
    # A host may forbid pip outside a virtual environment; nothing is installed here.
    environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wheel = folder / file
    if result.returncode or not wheel.is_file():
        found = sorted(path.name for path in folder.glob("*.whl"))
        raise SystemExit(
            f"{requirement}: pip did not get {file} with sha256 {sha256}"
            + (f", but {', '.join(found)}" if found else "")
            + f".\npip says:\n{RETRY.sub('', result.stderr).strip()}\n"
            "If the index is out of reach, mend pip's configuration (PIP_INDEX_URL, pip.conf). "
            f"If it no longer has this wheel, refresh the lock: `./bazel run {lock}`."
        )
    return wheel


def destination(member: str) -> str | None:
    """Where a member of a wheel belongs, relative to its folder on sys.path; None if nowhere."""
    parts = PurePosixPath(member).parts
    if parts[0].endswith(".data"):
        kind, rest = parts[1], parts[2:]
        if kind == "scripts":
            parts = ("bin", *rest)
        elif kind in ("purelib", "platlib"):
            parts = rest
        else:
            return None
    path = "/".join(parts)
    if any(fnmatch.fnmatchcase("/" + path, pattern) for pattern in UNUSED):
        return None
    return path


def unpack(wheel: Path, root: Path) -> None:
    """Unpack a wheel for import from `root`, its programs in `root/bin`."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = None if member.is_dir() else destination(member.filename)
            if path is None:
                continue
            target = root / path
            if not target.resolve().is_relative_to(root.resolve()):
                raise SystemExit(
                    f"{wheel.name}: the member {member.filename} would lie outside the wheel"
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as out:
                while block := source.read(1 << 20):
                    out.write(block)
            executable = member.external_attr >> 16 & 0o111 or path.startswith("bin/")
            target.chmod(0o755 if executable else 0o644)


def main() -> None:
    """Command line: see wheel.bzl."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requirement", required=True, help="NAME==VERSION")
    parser.add_argument("--file", required=True, help="name of the wheel")
    parser.add_argument("--sha256", required=True)
    parser.add_argument(
        "--pip", help="folder of the package pip to run, instead of the interpreter's own"
    )
    parser.add_argument(
        "--lock", default="//third_party/pypi:lock", help="what refreshes the lock, for an error"
    )
    parser.add_argument("--keep", action="store_true", help="keep the wheel as it is")
    options = parser.parse_args()
    # Here, not in a file system that may be the machine's memory.
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        wheel = download(
            options.requirement,
            options.file,
            options.sha256,
            Path(folder),
            options.pip,
            options.lock,
            # Kept once is enough: some are half a gigabyte.
            cache=not options.keep,
        )
        if options.keep:
            wheel.rename(Path.cwd() / wheel.name)
        else:
            unpack(wheel, Path.cwd())


if __name__ == "__main__":
    main()
