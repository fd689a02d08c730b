"""URLs and local paths of files: the scheme, parents, relative names, glob patterns."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from zml.errors import UsageError

if TYPE_CHECKING:
    from zml.vfs.base import Entry

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")


def scheme(url: str) -> str:
    """The scheme in lower case; "file" for a path."""
    found = _SCHEME.match(url)
    return found[1].lower() if found else "file"


def join(base: str, name: str) -> str:
    """The URL of `name` in the folder `base`; a URL stays what it is, an absolute path starts at the base's root.

    Queries and fragments of the base belong to it alone. ".." goes up, but not above the host or bucket.
    """
    if _SCHEME.match(name):
        return name
    found = _SCHEME.match(base)
    if not found:
        return name if name.startswith("/") else f"{base.rstrip('/') or ''}/{name}"
    path = re.split(r"[?#]", base, maxsplit=1)[0] if found[1].lower() in ("http", "https") else base
    host, _, rest = path[found.end() :].partition("/")
    parts = [] if name.startswith("/") else [part for part in rest.split("/") if part]
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    end = "/" if name.endswith("/") and parts else ""
    return f"{found[0]}{host}/{'/'.join(parts)}{end}"


def has_pattern(url: str) -> bool:
    """Whether its path has a *, ? or [ of a pattern. A "?" in an http URL begins a query, and is none."""
    path = url.split("?", 1)[0] if scheme(url) in ("http", "https") else url
    return bool(_MAGIC.search(path))


def glob(
    pattern: str,
    list: Callable[[str], Iterator[Entry]],
    walk: Callable[[str], Iterator[Entry]],
) -> Iterator[Entry]:
    """The files and folders whose URLs fit: * and ? and [...] within a part of the path, ** for any number of parts."""
    found = _SCHEME.match(pattern)
    start = found.end() if found else 0
    parts = pattern[start:].split("/")
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts))
    if found and fixed == 0:
        raise UsageError(f"{pattern}: the host or bucket of a pattern must be given as it is")
    base = pattern[:start] + "/".join(parts[:fixed])
    if not base.endswith("/"):
        base = base + "/" if base or not found else base
    if not base and not found:
        base = "."
    yield from _match(base, parts[fixed:], list, walk)


def _match(
    base: str,
    parts: list[str],
    list: Callable[[str], Iterator[Entry]],
    walk: Callable[[str], Iterator[Entry]],
) -> Iterator[Entry]:
    first, rest = parts[0], parts[1:]
    if first == "**":
        expression = re.compile(_expression(parts))
        prefix = base.rstrip("/") + "/"
        for entry in walk(base):
            if expression.fullmatch(entry.url.removeprefix(prefix)):
                yield entry
        return
    for entry in list(base):
        if not fnmatch.fnmatchcase(entry.name, first):
            continue
        if not rest:
            yield entry
        elif entry.is_folder:
            yield from _match(entry.url, rest, list, walk)


def _expression(parts: list[str]) -> str:
    result = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            result += ".*" if last else "(?:[^/]+/)*"
        else:
            # fnmatch's own * also matches "/", which must stay between parts.
            piece = (
                fnmatch.translate(part)
                .removeprefix("(?s:")
                .removesuffix(r")\Z")
                .removesuffix(r")\z")
            )
            result += piece.replace(".*", "[^/]*") + ("" if last else "/")
    return result
