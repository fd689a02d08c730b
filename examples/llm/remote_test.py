"""The same tokens from every scheme as from the disk, and nothing written to it: the program as its user starts it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zml.testing.servers.faults import faults
from zml.testing.servers.gcs import gcs
from zml.testing.servers.hub import hub
from zml.testing.servers.nginx import nginx
from zml.testing.servers.s3 import s3

_DEMO = Path(__file__).parent / "demo"
_PROGRAMS = "home/.cache/zml/executables"


@contextlib.contextmanager
def _http() -> Iterator[tuple[str, dict[str, str]]]:
    with nginx(_DEMO) as server:
        yield server.url, {}


@contextlib.contextmanager
def _without_ranges() -> Iterator[tuple[str, dict[str, str]]]:
    with nginx(_DEMO, ranges=False) as server:
        yield server.url, {}


@contextlib.contextmanager
def _https() -> Iterator[tuple[str, dict[str, str]]]:
    with nginx(_DEMO, tls=True, credentials="me:secret") as server:
        scheme, _, host = server.url.partition("://")
        yield f"{scheme}://me:secret@{host}", {"SSL_CERT_FILE": str(server.certificate)}


@contextlib.contextmanager
def _faulty() -> Iterator[tuple[str, dict[str, str]]]:
    with (
        nginx(_DEMO) as server,
        faults(server.url, seed=3, cut=0.1, busy=0.1, truncate=0.05) as proxy,
    ):
        yield proxy.url, {}


@contextlib.contextmanager
def _s3() -> Iterator[tuple[str, dict[str, str]]]:
    with s3() as server:
        server.bucket("models")
        for path in _DEMO.iterdir():
            server.put("models", f"demo/{path.name}", path.read_bytes())
        key, secret = server.user()
        with server.checked():
            yield (
                "s3://models/demo",
                {
                    "AWS_ENDPOINT_URL": server.url,
                    "AWS_ACCESS_KEY_ID": key,
                    "AWS_SECRET_ACCESS_KEY": secret,
                },
            )


@contextlib.contextmanager
def _gs() -> Iterator[tuple[str, dict[str, str]]]:
    with gcs() as server:
        server.bucket("models")
        for path in _DEMO.iterdir():
            server.put("models", f"demo/{path.name}", path.read_bytes())
        yield "gs://models/demo/", {"STORAGE_EMULATOR_HOST": server.url}


@contextlib.contextmanager
def _hf() -> Iterator[tuple[str, dict[str, str]]]:
    with hub(
        {"zml/demo": {"main": _DEMO}}, private=["zml/demo"], tokens={"hf_x": ["zml/demo"]}
    ) as server:
        yield "hf://zml/demo", {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_x"}


def _answer(model: str, home: Path, changes: dict[str, str], *flags: str) -> dict[str, Any]:
    """The program's JSON, run in an empty home."""
    for name in ("home", "tmp", "work"):
        (home / name).mkdir(parents=True, exist_ok=True)
    kept = ("PATH", "RUNFILES_DIR", "ZML_CPU_KERNELS", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(Path.cwd())]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home / "home"),
        "TMPDIR": str(home / "tmp"),
    }
    command = [
        sys.executable,
        "-m",
        "examples.llm",
        f"--model={model}",
        "--prompt=What is a river?",
    ]
    command += ["--temperature=0", "--max_new_tokens=24", "--platform=cpu", "--json", *flags]
    done = subprocess.run(
        command, env=environment | changes, cwd=home / "work", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _written(home: Path) -> list[str]:
    """Files below an answer's home, but for compiled programs."""
    names = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    return [name for name in names if not name.startswith(_PROGRAMS)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _answer(str(_DEMO), tmp_path_factory.mktemp("local"), {})


@pytest.mark.parametrize(
    "server", [_http, _https, _without_ranges, _faulty, _s3, _gs, _hf], ids=lambda x: x.__name__[1:]
)
def test_a_remote_checkpoint_gives_the_same_tokens(
    server: Any, local: dict[str, Any], tmp_path: Path
) -> None:
    with server() as (url, environment):
        answer = _answer(url, tmp_path, environment)
    assert len(answer["token_ids"]) > 5
    assert answer["token_ids"] == local["token_ids"] and answer["text"] == local["text"]
    assert answer["timings"]["load_bytes"] == local["timings"]["load_bytes"]
    assert _written(tmp_path) == []


def test_with_a_cache_the_second_run_needs_no_server(local: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with _http() as (url, environment):
        first = _answer(url, tmp_path / "first", environment, f"--cache={cache}")
        blobs = [
            path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1 << 20
        ]
        again = _answer(url, tmp_path / "again", environment, f"--cache={cache}")
    assert len(blobs) == 1
    assert first["token_ids"] == again["token_ids"] == local["token_ids"]
    assert _written(tmp_path / "first") == []


def test_a_hub_that_is_cached_works_offline(local: dict[str, Any], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with _hf() as (url, environment):
        _answer(url, tmp_path / "first", environment, f"--cache={cache}")
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": environment["HF_ENDPOINT"]}
    answer = _answer(url, tmp_path / "again", offline, f"--cache={cache}")
    assert answer["token_ids"] == local["token_ids"]
