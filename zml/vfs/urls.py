"""URLs and local paths of files: the scheme, parents, relative names, glob patterns."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from zml.errors import UsageError

if TYPE_CHECKING:
    from zml.vfs.base import Entry

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_MAGIC = re.compile(r"[*?\[]")
# To the last "@", as URLs are taken apart.
_CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]*@")
# A path may have blanks and quotes, as people write it: rather too much is left out than too little.
_QUERY = re.compile(r"(https?://(?:(?!://)[^?#\n])*\?)[^\s'\"]+", re.IGNORECASE)


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


def child(folder: str, name: str) -> str:
    """The URL of what a listing calls `name`, which file URLs quote."""
    quoting = scheme(folder) == "file" and _SCHEME.match(folder)
    return f"{folder.rstrip('/')}/{quote(os.fsencode(name)) if quoting else name}"


def unquoted(url: str) -> str:
    """As people write it: what http and file URLs quote (%20) in their own characters, without query and fragment."""
    kind = scheme(url)
    if kind in ("http", "https"):
        return unquote(re.split(r"[?#]", url, maxsplit=1)[0])
    return unquote(url) if kind == "file" and _SCHEME.match(url) else url


def redacted(text: str) -> str:
    """The text, with what may be secret in its URLs left out: user and password, and queries, which may be signed."""
    return _QUERY.sub(r"\1...", _CREDENTIALS.sub("", text))


def has_pattern(url: str) -> bool:
    """Whether its path has a *, ? or [ of a pattern. A "?" in an http URL begins a query, and is none."""
    if scheme(url) in ("http", "https"):
        # The host may be a number of IPv6, in brackets.
        return bool(_MAGIC.search(url.split("?", 1)[0].partition("://")[2].partition("/")[2]))
    return bool(_MAGIC.search(url))


def glob(
    pattern: str,
    list: Callable[[str], Iterator[Entry]],
    walk: Callable[[str], Iterator[Entry]],
) -> Iterator[Entry]:
    """The files and folders whose URLs fit: * and ? and [...] within a part of the path, ** for any number of parts."""
    found = _SCHEME.match(pattern)
    start = found.end() if found else 0
    parts = pattern[start:].split("/")
    web = found is not None and found[1].lower() in ("http", "https")
    fixed = next((i for i, part in enumerate(parts) if _MAGIC.search(part) and (i or not web)), 0)
    if found and fixed == 0:
        raise UsageError(
            f"{redacted(pattern)}: the host or bucket of a pattern must be given as it is"
        )
    base = pattern[:start] + "/".join(parts[:fixed])
    if not base.endswith("/"):
        base = base + "/" if base or not found else base
    if not base and not found:
        base = "."
    quoted = web or (found is not None and found[1].lower() == "file")
    rest = [unquote(part) if quoted else part for part in parts[fixed:]]
    yield from _match(base, rest, list, walk)


def _match(
    base: str,
    parts: list[str],
    list: Callable[[str], Iterator[Entry]],
    walk: Callable[[str], Iterator[Entry]],
) -> Iterator[Entry]:
    first, rest = parts[0], parts[1:]
    if first == "**":
        prefix = unquoted(base.rstrip("/") + "/")
        for entry in walk(base):
            if _fits(unquoted(entry.url).removeprefix(prefix).split("/"), parts):
                yield entry
        return
    for entry in list(base):
        if not fnmatch.fnmatchcase(entry.name, first):
            continue
        if not rest:
            yield entry
        elif entry.is_folder:
            yield from _match(entry.url, rest, list, walk)


def _fits(path: list[str], parts: list[str]) -> bool:
    """Whether the names of a path fit the parts of a pattern, of which "**" is for any number of names."""
    if not parts:
        return not path
    if parts[0] != "**":
        return bool(path) and fnmatch.fnmatchcase(path[0], parts[0]) and _fits(path[1:], parts[1:])
    if len(parts) == 1:
        return True
    return any(_fits(path[skipped:], parts[1:]) for skipped in range(len(path)))
