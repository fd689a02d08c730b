import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from zml.testing.servers import nginx
from zml.testing.vfs_conformance import CASES, FILES, Case, Place, check
from zml.vfs import Vfs
from zml.vfs.memory import MemoryFileSystem

_SECONDS = itertools.count(1_700_000_000)
_WEB: dict[str, dict[str, Any]] = {
    "http": {"listing": "html"},
    "http-json": {"listing": "json"},
    "http-unlisted": {},
    "http-in-order": {"listing": "html", "ranges": False},
}


def _publish(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        # A new file in its place, so that an open one stays what it is.
        (folder / ".new").write_bytes(content)
        # nginx tells versions apart by whole seconds.
        os.utime(folder / ".new", (seconds := next(_SECONDS), seconds))
        (folder / ".new").replace(file)


def _publish_in_memory(system: MemoryFileSystem, files: Mapping[str, bytes]) -> None:
    system.files.update({f"place/{path}": content for path, content in files.items()})


@pytest.fixture(scope="module", params=["memory", "path", "file", *_WEB])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    kind = request.param
    if kind == "memory":
        system = MemoryFileSystem({})
        with Vfs(schemes={"memory": lambda _: system}) as vfs:
            place = Place(vfs, "memory://place", lambda files: _publish_in_memory(system, files))
            place.publish(FILES)
            yield place
        return
    folder = tmp_path_factory.mktemp(kind)
    with Vfs() as vfs:
        if kind in _WEB:
            with nginx(folder, **_WEB[kind]) as server:
                lists = "listing" in _WEB[kind]
                place = Place(vfs, server.url, lambda files: _publish(folder, files), quote, lists)
                place.publish(FILES)
                yield place
            return
        url = str(folder) if kind == "path" else folder.as_uri()
        quoting = quote if kind == "file" else str
        place = Place(vfs, url, lambda files: _publish(folder, files), quoting)
        place.publish(FILES)
        yield place


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance(place: Place, case: Case) -> None:
    check(place, case)
