"""Writes lock.json: every wheel that requirements.in needs on each platform, by name and hash.

pip resolves and reads the index, as this host has configured it, and downloads nothing but
metadata. It judges environment markers by this host, so the dependencies between packages are
worked out here, for each platform.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PYTHON = "3.13"
# 2.28 is what the programs here run on.
GLIBC = 28
MANYLINUX = [
    "manylinux2014",
    "manylinux2010",
    "manylinux1",
    *(f"manylinux_2_{minor}" for minor in range(5, GLIBC + 1)),
]
PLATFORMS: dict[str, dict[str, Any]] = {
    "linux_amd64": {
        "tags": [f"{name}_x86_64" for name in MANYLINUX],
        "markers": {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "x86_64",
        },
    },
    "linux_arm64": {
        "tags": [f"{name}_aarch64" for name in MANYLINUX],
        "markers": {
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": "aarch64",
        },
    },
    "macos_arm64": {
        "tags": ["macosx_14_0_arm64"],
        "markers": {
            "sys_platform": "darwin",
            "platform_system": "Darwin",
            "platform_machine": "arm64",
        },
    },
}
MARKERS = {
    "extra": "",
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.5",
}


def description(platform: str, glibc: int) -> dict[str, Any]:
    """How pip and the markers know a platform; with wheels for a newer glibc, 2.`glibc`."""
    known = PLATFORMS[platform]
    processor = known["markers"]["platform_machine"]
    newer = [f"manylinux_2_{minor}_{processor}" for minor in range(GLIBC + 1, glibc + 1)]
    # Last: the tag of wheels that a vendor's own index may hold, which promise nothing about glibc.
    return {**known, "tags": [*known["tags"], *newer, f"linux_{processor}"]}


def label(name: str) -> str:
    """The name of a package in Bazel labels: PEP 503's normal form with underscores."""
    return re.sub(r"[-_.]+", "_", name).lower()


def read_omitted(text: str) -> dict[tuple[str, str], str]:
    """The edges of omit.txt, each with its reason."""
    omitted = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            words = line.split(maxsplit=2)
            if len(words) < 3:
                raise SystemExit(
                    f"omit.txt:{number}: expected PACKAGE DEPENDENCY REASON, got {line!r}"
                )
            omitted[label(words[0]), label(words[1])] = words[2]
    return omitted


def resolve(requirements: Path, tags: list[str], *, closed: bool = False) -> list[dict[str, Any]]:
    """pip's report of what it would install for a platform; `closed`: of the requirements alone."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
        ]
        command += [
            f"--report={report}",
            f"--target={folder}/none",
            "--only-binary=:all:",
            f"--python-version={PYTHON}",
        ]
        command += [
            "--implementation=cp",
            f"--requirement={requirements}",
            *(f"--platform={tag}" for tag in tags),
            *(["--no-deps"] if closed else []),
        ]
        environment = {**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"}  # nothing is installed
        if subprocess.run(command, env=environment, check=False).returncode:
            raise SystemExit(
                f"pip finds no wheels for {tags[0]} that satisfy {requirements} (see above)"
            )
        installs: list[dict[str, Any]] = json.loads(report.read_text())["install"]
        return installs


def requires(metadata: dict[str, Any], extras: list[str], markers: dict[str, str]) -> Iterator[str]:
    """Names of the packages that a distribution needs on the platform that `markers` describe."""
    from pip._vendor.packaging.requirements import Requirement

    for text in metadata.get("requires_dist", []):
        requirement = Requirement(text)
        environments = [{**MARKERS, **markers, "extra": extra} for extra in ["", *extras]]
        if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
            yield label(requirement.name)


def sizes(urls: list[str]) -> dict[str, int]:
    """Bytes of each file, asked of the index as pip would (proxies, certificates, credentials)."""
    from pip._internal.commands import create_command

    command: Any = create_command("download")
    options, _ = command.parse_args([])
    found = {}
    with command.main_context():
        session = command.get_default_session(options)
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme == "file":
                found[url] = Path(unquote(parts.path)).stat().st_size
                continue
            response = session.head(
                url, allow_redirects=True, headers={"Accept-Encoding": "identity"}
            )
            response.raise_for_status()
            found[url] = int(response.headers["Content-Length"])
    return found


def closure(roots: list[str], edges: dict[str, set[str]]) -> set[str]:
    """Everything that can be reached from `roots`."""
    reached: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += edges[name]
    return reached


def lock(
    requirements: Path,
    omitted: dict[tuple[str, str], str],
    platforms: Sequence[str] = tuple(PLATFORMS),
    *,
    closed: bool = False,
    glibc: int = GLIBC,
) -> dict[str, Any]:
    """The content of lock.json; `closed`: without what the packages depend on."""
    packages: dict[str, dict[str, Any]] = {}
    unused = set(omitted)
    for platform in platforms:
        described = description(platform, glibc) if closed else PLATFORMS[platform]
        found = resolve(requirements, described["tags"], closed=closed)
        installs = {label(i["metadata"]["name"]): i for i in found}
        edges: dict[str, set[str]] = {}
        for name, install in installs.items():
            extras = install.get("requested_extras", [])
            declared = set(requires(install["metadata"], extras, described["markers"]))
            if closed:
                declared = set()
            unused -= {(name, dependency) for dependency in declared}
            edges[name] = {d for d in declared if (name, d) not in omitted}
            if missing := edges[name] - installs.keys():
                raise SystemExit(
                    f"{name} needs {', '.join(sorted(missing))} on {platform}, which pip left out, "
                    "judging by this host: add it to requirements.in"
                )
        for name in closure([n for n, i in installs.items() if i["requested"]], edges):
            install = installs[name]
            version = install["metadata"]["version"]
            package = packages.setdefault(
                name, {"version": version, "requires": set(), "wheels": {}}
            )
            if package["version"] != version:
                raise SystemExit(
                    f"{name} is {version} on {platform} and {package['version']} on another "
                    "platform: pin it in requirements.in"
                )
            package["requires"] |= edges[name]
            url = install["download_info"]["url"]
            file = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
            pure = file.endswith("-none-any.whl")
            package["wheels"]["any" if pure else platform] = {
                "file": file,
                "sha256": install["download_info"]["archive_info"]["hashes"]["sha256"],
                "url": url,
            }
    for edge in unused:
        raise SystemExit(
            f"omit.txt: {edge[0]} does not depend on {edge[1]} (any more): remove the line"
        )
    wheels = [wheel for package in packages.values() for wheel in package["wheels"].values()]
    known = sizes([wheel["url"] for wheel in wheels])
    for wheel in wheels:
        wheel["size"] = known[wheel.pop("url")]
    return {"python": PYTHON, "packages": packages}


def dump(content: dict[str, Any]) -> str:
    """JSON with a line for each wheel, so that a diff of the lock can be read."""
    packages = []
    for name, package in sorted(content["packages"].items()):
        wheels = [
            f"        {json.dumps(p)}: {json.dumps(w)}"
            for p, w in sorted(package["wheels"].items())
        ]
        packages.append(
            f"    {json.dumps(name)}: {{\n"
            f'      "version": {json.dumps(package["version"])},\n'
            f'      "requires": {json.dumps(sorted(package["requires"]))},\n'
            f'      "wheels": {{\n' + ",\n".join(wheels) + "\n      }\n    }"
        )
    body = ",\n".join(packages)
    return f'{{\n  "python": {json.dumps(content["python"])},\n  "packages": {{\n{body}\n  }}\n}}\n'


def main() -> None:
    """Refresh the lock in the source tree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder",
        default="third_party/pypi",
        help="holds requirements.in, perhaps omit.txt, and gets lock.json",
    )
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: all")
    parser.add_argument(
        "--closed",
        action="store_true",
        help="the requirements name every package, dependencies too",
    )
    parser.add_argument("--glibc", type=int, default=GLIBC, help="take wheels for glibc up to 2.N")
    options = parser.parse_args()
    # A relative folder is the repository's: Bazel starts a program elsewhere.
    folder = Path(os.environ.get("BUILD_WORKSPACE_DIRECTORY", ".")) / options.folder
    omit = folder / "omit.txt"
    content = lock(
        folder / "requirements.in",
        read_omitted(omit.read_text()) if omit.exists() else {},
        options.platforms.split(","),
        closed=options.closed,
        glibc=options.glibc,
    )
    (folder / "lock.json").write_text(dump(content))
    print(f"lock: {len(content['packages'])} packages for Python {PYTHON}", file=sys.stderr)


if __name__ == "__main__":
    main()
