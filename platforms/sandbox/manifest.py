"""The manifest of a sandbox, `manifest.json` in its root: every file with its size, hash and package."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAME = "manifest.json"


class ManifestError(Exception):
    """A manifest that cannot be read."""


@dataclass(frozen=True)
class Package:
    """Where files come from."""

    name: str
    version: str
    license: str


@dataclass(frozen=True)
class Entry:
    """One file."""

    path: str
    size: int
    sha256: str
    package: str


@dataclass(frozen=True)
class Manifest:
    """What a sandbox holds."""

    target: str
    platform: str
    variant: str
    packages: tuple[Package, ...]
    files: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.files)

    def dump(self) -> str:
        """JSON with a line for each package and file."""
        head = {"target": self.target, "platform": self.platform, "variant": self.variant}
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
        lines.append(f'  "size": {self.size},')
        for key, entries in (("packages", self.packages), ("files", self.files)):
            body = ",\n".join(f"    {json.dumps(vars(entry))}" for entry in entries)
            lines.append(f'  "{key}": [\n{body}\n  ]' + ("," if key == "packages" else ""))
        return "{\n" + "\n".join(lines) + "\n}\n"


def parse(text: str, name: str) -> Manifest:
    """Reads a manifest. Raises ManifestError."""
    try:
        content: dict[str, Any] = json.loads(text)
        return Manifest(
            content["target"],
            content["platform"],
            content["variant"],
            tuple(Package(**package) for package in content["packages"]),
            tuple(Entry(**entry) for entry in content["files"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{name}: is no manifest of a sandbox: {error!r}") from error


def read(path: Path) -> Manifest:
    """Reads a manifest. Raises ManifestError."""
    try:
        return parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
