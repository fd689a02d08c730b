"""Checks that every library that a file of a sandbox needs or opens is in the sandbox, or is known to be the host's."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from platforms.sandbox import elf

C_LIBRARY = dict.fromkeys(
    (
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "librt.so.1",
        "libutil.so.1",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    ),
    "glibc, which is the host's or the image's",
) | dict.fromkeys(
    ("libstdc++.so.6", "libgcc_s.so.1"),
    "the C++ run-time library: jaxlib needs the same and has loaded it before a plugin",
)
"""What no sandbox brings -> why."""


class UnresolvedError(Exception):
    """Names that lead nowhere."""


@dataclass(frozen=True)
class Needs:
    """What one file of a sandbox asks for."""

    path: str
    needed: tuple[str, ...]
    """Loaded with it."""
    opened: frozenset[str]
    """Opened by name, perhaps."""


def needs(root: Path, path: str, opens: tuple[str, ...]) -> Needs:
    """Reads a file. Raises elf.ElfError."""
    file = root / path
    dynamic = elf.read_dynamic(file)
    own = {dynamic.soname, PurePosixPath(path).name}
    return Needs(path, dynamic.needed, (elf.library_names(file) | set(opens)) - own)


def search_path(
    asking: Needs, libraries: Mapping[str, str], host_folders: tuple[str, ...] = ()
) -> str:
    """The RPATH with which a file finds what it asks for; without folders of the host empty where that is nothing here.

    `libraries` are the sandbox's, by name, with their paths.
    """
    here = PurePosixPath(asking.path).parent
    names = {*asking.needed, *asking.opened} & libraries.keys()
    folders = sorted({PurePosixPath(libraries[name]).parent for name in names})
    steps = [os.path.relpath(folder, here) for folder in folders]
    own = ["$ORIGIN" if step == "." else f"$ORIGIN/{step}" for step in steps]
    return ":".join([*own, *host_folders])


def check(
    asking: list[Needs],
    libraries: Mapping[str, str],
    external: Mapping[str, str],
    left_out: frozenset[str],
) -> None:
    """Raises UnresolvedError with every name that is neither in the sandbox nor on an allow-list.

    `left_out` are libraries of which this variant does without: they may be opened by name, not be needed.
    """
    known = libraries.keys() | C_LIBRARY.keys() | external.keys()
    # A library's name without its version is what the version is put after: the files here all have one.
    opened = known | left_out
    opened |= {name[: name.index(".so.") + 3] for name in opened if ".so." in name}
    problems = []
    for file in asking:
        problems += [f"{file.path} needs {name}" for name in file.needed if name not in known]
        problems += [
            f"{file.path} opens {name}" for name in sorted(file.opened) if name not in opened
        ]
    if problems:
        raise UnresolvedError(
            "libraries that are not in the sandbox:\n  "
            + "\n  ".join(sorted(set(problems)))
            + "\nadd each to the file list (sandbox.toml), or to its table [external] with the reason"
        )
