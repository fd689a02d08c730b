"""The listings that web servers make of folders: index pages, and nginx's JSON."""

from __future__ import annotations

import contextlib
import email.utils
import html.parser
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from zml.vfs.base import Entry
from zml.vfs.client import Response

_INDEX = re.compile(r"\s*(index of|directory listing for|listing of)\b", re.IGNORECASE)
# Of a page's size only whole bytes are exact; others are rounded ("1.2M").
_SIZE = re.compile(r"\s\d\d:\d\d(?::\d\d)?\s+(\d+)\s*$")


def parse(response: Response, folder: str) -> list[Entry] | None:
    """The entries of a folder, by name; None for what is no listing."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json(response.body, folder)
    if kind == "text/html":
        page = _Page()
        page.feed(response.body.decode("utf-8", "replace"))
        page.close()
        if _INDEX.match(page.title):
            return _entries(_links(page, response.url), folder)
    return None


def seconds(date: str | None) -> float | None:
    """A date of HTTP, as seconds since 1970."""
    if date is not None:
        with contextlib.suppress(ValueError):
            return email.utils.parsedate_to_datetime(date).timestamp()
    return None


def _json(body: bytes, folder: str) -> list[Entry] | None:
    try:
        listed: Any = json.loads(body)
        return _entries(
            [
                (
                    item["name"] + ("/" if item["type"] == "directory" else ""),
                    int(item["size"]) if "size" in item else None,
                    seconds(item.get("mtime")),
                )
                for item in listed
            ],
            folder,
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _links(page: _Page, base: str) -> Iterable[tuple[str, int | None, float | None]]:
    """Those to what is directly in the folder: not those that sort, or lead up or away."""
    here = unquote(urlsplit(base).path)
    for reference, after in page.links:
        if reference.startswith(("?", "#")):
            continue
        parts = urlsplit(urljoin(base, reference))
        path = unquote(parts.path)
        name = path.removeprefix(here)
        if parts.netloc == urlsplit(base).netloc and path != here and path.startswith(here):
            size = _SIZE.search(after)
            yield name, int(size[1]) if size else None, None


def _entries(listed: Iterable[tuple[str, int | None, float | None]], folder: str) -> list[Entry]:
    base = folder.partition("?")[0]
    entries = {}
    for name, size, modified in listed:
        # Whoever copies a folder makes files of these names: none may lead out of it.
        own = name.removesuffix("/")
        if own in ("", ".", "..") or "/" in own or "\0" in own:
            continue
        url = base + quote(name, safe="/:@!$&'()*+,;=~")
        entries[name] = Entry(url, None if name.endswith("/") else size, modified=modified)
    return [entries[name] for name in sorted(entries)]


class _Page(html.parser.HTMLParser):
    """The title of a page, or its first heading, and its links with the text that follows each."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[tuple[str, str]] = []
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes links."""
        self._in = tag
        if tag == "a" and (reference := dict(attrs).get("href")):
            self.links.append((reference, ""))

    def handle_endtag(self, tag: str) -> None:
        """What follows a link is of the link's line."""
        self._in = "line" if tag == "a" else self._in if tag == "td" else ""

    def handle_data(self, data: str) -> None:
        """Notes the title and what follows a link."""
        if self._in in ("title", "h1") and not self.title:
            self.title = data
        elif self._in != "a" and self.links:
            reference, after = self.links[-1]
            self.links[-1] = (reference, after + data.splitlines()[0] if data.strip() else after)
