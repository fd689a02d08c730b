"""hf:// in processes that are started with an environment: huggingface_hub reads its own when it is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zml.testing.servers.hub import Hub, hub

_WEIGHTS = bytes(range(256)) * (8 << 10)
_REPO = {"config.json": b"{}", "model.safetensors": _WEIGHTS}
# Reads files, and prints the size of each or its error, and what was imported for it.
_READ = """
import json, sys
from pathlib import Path
from zml.errors import ZmlError
from zml.vfs import Options, Vfs
from zml.vfs.cache import user_cache

cache, *urls = sys.argv[1:]
options = Options(deadline=5, cache={"": None, "user": user_cache()}.get(cache, Path(cache)))
found = {}
with Vfs(options) as vfs:
    for url in urls:
        try:
            found[url] = len(vfs.read(url))
        except ZmlError as error:
            found[url] = f"{type(error).__name__}: {error}"
names = ("hf_xet", "huggingface_hub.hf_api", "huggingface_hub.file_download", "requests", "jax")
found["modules"] = [name for name in names if name in sys.modules]
print(json.dumps(found))
"""


@pytest.fixture
def server() -> Iterator[Hub]:
    repos = {"o/r": {"main": _REPO}, "o/private": {"main": {"config.json": b"{}"}}}
    with hub(repos, private=["o/private"], tokens={"hf_member": ["o/private"]}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "tmp").mkdir(parents=True)
    return home


def _read(
    home: Path, *urls: str, cache: str = "", before: str = "", **environment: str
) -> dict[str, Any]:
    """What a process that has nothing of ours but the path of its modules, and its own home, gets."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    own = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", before + _READ, cache, *urls],
        env=kept | own | environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _made(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def test_without_a_cache_nothing_is_written(server: Hub, home: Path) -> None:
    urls = ["hf://o/r/model.safetensors", "hf://o/r/config.json", "hf://o/r/none"]
    found = _read(home, *urls, HF_ENDPOINT=server.url)
    assert (found[urls[0]], found[urls[1]]) == (len(_WEIGHTS), 2)
    assert "there is no 'none'" in found[urls[2]]
    assert _made(home) == ["tmp"]
    # The parts of the library that list and download take longer to import than a small file to read.
    assert found["modules"] == []
    assert not server.asked("agent-harnesses")


def test_tokens(server: Hub, home: Path) -> None:
    url = "hf://o/private/config.json"

    def read(**environment: str) -> Any:
        return _read(home, url, HF_ENDPOINT=server.url, **environment)[url]

    assert "give a token of your account in HF_TOKEN" in read()
    assert read(HF_TOKEN="hf_member") == 2
    assert "does not accept the token in HF_TOKEN" in read(HF_TOKEN="hf_wrong")
    given = read(HF_TOKEN="hf_member", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN is set: unset it" in given
    for folder, environment in (
        (home / ".cache" / "huggingface", {}),
        (home / "other", {"HF_HOME": str(home / "other")}),
    ):
        folder.mkdir(parents=True)
        (folder / "token").write_text("hf_member\n")
        assert read(**environment) == 2
    (home / "token").write_text("hf_wrong")
    assert f"the token in {home}/token" in read(HF_TOKEN_PATH=str(home / "token"))


def test_offline_with_everything_in_the_cache(server: Hub, home: Path) -> None:
    urls = [f"hf://o/r/{name}" for name in _REPO]
    for place in ({"HF_HUB_CACHE": str(home / "own")}, {"HF_HOME": str(home / "other")}, {}):
        filled = _read(home, *urls, cache="user", HF_ENDPOINT=server.url, **place)
        assert [filled[url] for url in urls] == [2, len(_WEIGHTS)]
        before = len(server.requests)
        found = _read(
            home, *urls, "hf://o/r/none", HF_ENDPOINT=server.url, HF_HUB_OFFLINE="1", **place
        )
        assert [found[url] for url in urls] == [2, len(_WEIGHTS)]
        assert "HF_HUB_OFFLINE is set, and it is not in the cache" in found["hf://o/r/none"]
        assert len(server.requests) == before
    made = [name for name in _made(home) if name.endswith("refs/main")]
    assert made == [
        f"{folder}/models--o--r/refs/main"
        for folder in (".cache/huggingface/hub", "other/hub", "own")
    ]


def test_a_full_disk_leaves_nothing_behind(server: Hub, home: Path) -> None:
    # The kernel refuses to make a file longer, as it does on a disk that is full.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
    url = "hf://o/r/model.safetensors"
    found = _read(home, url, cache=str(home / "own"), before=limit, HF_ENDPOINT=server.url)
    assert f"{url}: cannot be kept in the cache {home}/own/hub: File too large" in found[url]
    assert not [
        path for path in (home / "own").rglob("*") if path.is_file() and path.stat().st_size > 1000
    ]


def test_without_huggingface_hub_the_error_says_what_to_install(home: Path) -> None:
    url = "hf://o/r/config.json"
    found = _read(home, url, before="import sys; sys.modules['huggingface_hub'] = None\n")
    assert found[url].startswith("UnsupportedError: hf:// needs the package huggingface_hub")
    assert "pip install huggingface_hub" in found[url]
