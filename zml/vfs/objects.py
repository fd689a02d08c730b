"""What object stores have in common: keys, of which "/" makes folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from zml.vfs.base import Entry


def folder_of(key: str) -> str:
    """The beginning that the keys in a folder have in common; "" for all of a bucket."""
    return key if not key or key.endswith("/") else f"{key}/"


def listed(entries: Mapping[str, Entry], folder: str) -> Iterator[Entry]:
    """The entries of a page by key, in order.

    Those whose keys have an empty part, "." or ".." are left out: whoever copies a folder makes files of its names, and
    none may lead out of it. Such objects can be opened by their whole URLs.
    """
    for key in sorted(filter(_is_text, entries), key=str.encode):
        below = key.removeprefix(folder).removesuffix("/")
        if "\0" not in below and not {"", ".", ".."} & set(below.split("/")):
            yield entries[key]


def _is_text(key: str) -> bool:
    """Not so are halves of characters, which JSON can hold."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
