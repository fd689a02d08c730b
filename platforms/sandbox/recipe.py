"""A platform's file list, `platforms/X/sandbox.toml`: which file of which package lies where, and why."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from platforms.sandbox.sources import normal

FULL = "full"
"""The variant that holds every file."""

# Bazel's name of a platform -> what stands for it in the names of files: {cpu} is the processor, {gnu} Debian's folder.
PLATFORMS = {
    "linux_amd64": {"cpu": "x86_64", "gnu": "x86_64-linux-gnu"},
    "linux_arm64": {"cpu": "aarch64", "gnu": "aarch64-linux-gnu"},
}

_FIELDS = {"package", "member", "path", "why"}
_OPTIONAL = {"opens", "leave_out"}


class RecipeError(Exception):
    """The file list is malformed, or does not fit the lock."""


@dataclass(frozen=True)
class File:
    """One file of the sandbox."""

    package: str
    member: str
    """Its name in the package."""
    path: str
    """Its name in the sandbox."""
    why: str
    opens: tuple[str, ...] = ()
    """Libraries that it opens by a name that it puts together, so that the name does not stand in it."""
    leave_out: tuple[str, ...] = ()
    """The variants without it."""


@dataclass(frozen=True)
class Recipe:
    """A file list."""

    target: str
    files: tuple[File, ...]
    max_size: int
    """Bytes that a sandbox may have at most."""
    external: Mapping[str, str]
    """Libraries that the host brings -> why."""
    variants: Mapping[str, str]
    """Smaller sandboxes -> what each is for."""
    host_folders: tuple[str, ...] = ()
    """Where the libraries in `external` are on the host, if the loader does not look there by itself."""

    def select(self, variant: str) -> tuple[File, ...]:
        """The files of a variant."""
        if variant != FULL and variant not in self.variants:
            raise RecipeError(
                f"{self.target} has no variant {variant!r}: expected one of {', '.join([FULL, *self.variants])}"
            )
        return tuple(file for file in self.files if variant not in file.leave_out)


@dataclass(frozen=True)
class Locked:
    """A package for one platform, as the lock names it."""

    version: str
    file: str
    sha256: str
    size: int


def read_recipe(path: Path, platform: str) -> Recipe:
    """Reads a file list. Raises RecipeError with the place of a mistake."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    if platform not in PLATFORMS:
        raise RecipeError(f"platform {platform!r}: expected one of {', '.join(PLATFORMS)}")
    known = {"target", "max_size", "external", "variants", "file", "host_folders"}
    if strange := content.keys() - known:
        raise RecipeError(
            f"{path}: {', '.join(sorted(strange))}: expected {', '.join(sorted(known))}"
        )
    variants = content.get("variants", {})
    files = tuple(
        _file(path, number, entry, platform, variants)
        for number, entry in enumerate(content.get("file", []), 1)
    )
    paths = [file.path for file in files]
    if twice := sorted({name for name in paths if paths.count(name) > 1}):
        raise RecipeError(f"{path}: two files would lie at {', '.join(twice)}")
    try:
        return Recipe(
            content["target"],
            files,
            content["max_size"][platform],
            content.get("external", {}),
            variants,
            tuple(content.get("host_folders", ())),
        )
    except KeyError as error:
        raise RecipeError(f"{path}: {error.args[0]} is missing") from error
    except TypeError as error:
        raise RecipeError(f"{path}: max_size: expected bytes for each platform") from error


def _file(
    path: Path, number: int, entry: dict[str, Any], platform: str, variants: Mapping[str, str]
) -> File:
    where = f"{path}: file {number} ({entry.get('path', '?')})"
    if missing := _FIELDS - entry.keys():
        raise RecipeError(f"{where}: {', '.join(sorted(missing))} is missing")
    if strange := entry.keys() - _FIELDS - _OPTIONAL:
        raise RecipeError(f"{where}: {', '.join(sorted(strange))} means nothing")
    if unknown := set(entry.get("leave_out", ())) - variants.keys():
        raise RecipeError(
            f"{where}: leave_out names {', '.join(sorted(unknown))}, which is no variant"
        )
    names = {}
    for key in ("member", "path"):
        name = entry[key].format_map(PLATFORMS[platform])
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != name or name in ("", "."):
            raise RecipeError(
                f"{where}: {key} {name!r} leads outside: expected a path like lib/libx.so.1"
            )
        names[key] = name
    return File(
        normal(entry["package"]),
        names["member"],
        names["path"],
        entry["why"],
        tuple(entry.get("opens", ())),
        tuple(entry.get("leave_out", ())),
    )


def read_lock(path: Path, platform: str) -> dict[str, Locked]:
    """The packages of a lock, of wheels or Debian's, that are there for a platform. Raises RecipeError."""
    try:
        packages = json.loads(path.read_text("utf-8"))["packages"]
        found = {}
        if isinstance(packages, list):
            architecture = platform.removeprefix("linux_")
            return {
                normal(p["name"]): Locked(p["version"], p["path"], p["sha256"], p["size"])
                for p in packages
                if p["architecture"] in (architecture, "all")
            }
        for name, package in packages.items():
            for key in (platform, "any"):
                if wheel := package["wheels"].get(key):
                    found[name] = Locked(
                        package["version"], wheel["file"], wheel["sha256"], wheel["size"]
                    )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: is no lock: {error!r}") from error
    return found
