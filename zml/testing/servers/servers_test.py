import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from zml.testing.servers import faults, nginx

_CONTENT = bytes(range(256)) * 64


def _get(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers or {}), timeout=20
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b""


def test_nginx_serves_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path) as server:
        assert _get(f"{server.url}/a.bin") == (200, _CONTENT)
        assert _get(f"{server.url}/redirect/a.bin", {"Range": "bytes=3-9"}) == (206, _CONTENT[3:10])
        assert _get(f"{server.url}/missing") == (404, b"")
        assert server.requests() == [
            "GET /a.bin 200 -",
            "GET /redirect/a.bin 302 bytes=3-9",
            "GET /a.bin 206 bytes=3-9",
            "GET /missing 404 -",
        ]


def test_nginx_without_ranges_and_with_credentials(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path, ranges=False) as server:
        assert _get(f"{server.url}/a.bin", {"Range": "bytes=3-9"}) == (200, _CONTENT)
    with nginx(tmp_path, credentials="me:secret") as server:
        assert _get(f"{server.url}/a.bin") == (401, b"")
        assert _get(f"{server.url}/a.bin", {"Authorization": "Basic bWU6c2VjcmV0"})[0] == 200


def _through(upstream: str, seed: int) -> tuple[list[int], Counter[str]]:
    seen = []
    with faults(upstream, seed=seed, cut=0.2, truncate=0.2, busy=0.2, error=0.1) as proxy:
        for at in range(40):
            try:
                status, body = _get(f"{proxy.url}/a.bin", {"Range": f"bytes={at}-{at + 99}"})
                seen.append(status if len(body) == 100 else -status)
            except OSError:
                seen.append(0)
            except Exception as error:  # http.client's, of a body that ends early
                seen.append(-len(type(error).__name__))
        return seen, proxy.counts


def test_faults_are_made_at_their_rates_and_are_the_same_for_a_seed(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path) as server:
        seen, counts = _through(server.url, 1)
        assert counts["requests"] == 40
        assert all(counts[kind] for kind in ("cut", "truncate", "busy", "error"))
        assert {206, 0, -500} <= set(seen) and {-429, -503} & set(seen)
        assert (seen, counts) == _through(server.url, 1)
        assert seen != _through(server.url, 2)[0]


@pytest.mark.parametrize("kind", ["wrong", "whole", "corrupt", "changed", "delay"])
def test_each_fault_is_what_it_says(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    rates = {kind: 1.0}
    with nginx(tmp_path) as server, faults(server.url, **rates, seconds=0.01) as proxy:  # type: ignore[arg-type]
        request = urllib.request.Request(f"{proxy.url}/a.bin", headers={"Range": "bytes=100-199"})
        with urllib.request.urlopen(request, timeout=20) as reply:
            body, headers = reply.read(), reply.headers
        with urllib.request.urlopen(f"{server.url}/a.bin", timeout=20) as reply:
            etag = reply.headers["ETag"]
    assert (reply.status, headers["ETag"] != etag) == (200, kind == "changed")
    assert (len(body) == len(_CONTENT)) == (kind == "whole")
    assert (headers.get("Content-Range") == "bytes 100-199/16384") == (
        kind not in ("wrong", "whole")
    )
    differ = sum(x != y for x, y in zip(body, _CONTENT[100:200], strict=False))
    assert (differ == 1) == (kind == "corrupt")
    assert (body == _CONTENT[100:200]) == (kind in ("changed", "delay"))


def test_a_dead_proxy_resets_connections(tmp_path: Path) -> None:
    with nginx(tmp_path) as server, faults(server.url) as proxy:
        proxy.dead = True
        with pytest.raises(OSError):
            _get(f"{proxy.url}/a.bin")
