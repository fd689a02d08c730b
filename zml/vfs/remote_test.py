"""RemoteFile under faults. ZML_FAULT_SEEDS=200 is how many seeds to read under, in place of a few."""

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zml.errors import AccessError, CancelledError, NotFoundError, ReadError
from zml.testing.servers import Answer, Nginx, Request, faults, nginx, scripted
from zml.vfs import Cancellation, File, Options
from zml.vfs.client import HttpClient
from zml.vfs.patience import Patience, TryAgainError
from zml.vfs.remote import Located, RemoteFile

_SEEDS = int(os.environ.get("ZML_FAULT_SEEDS", "40"))
_CONTENT = random.Random(3).randbytes(600_011)
_PART = 64_000
_OPTIONS = Options(backoff=0.002, backoff_limit=0.02, deadline=30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "a.bin").write_bytes(_CONTENT)
    with nginx(folder) as server:
        yield server


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient(_OPTIONS)
    yield client
    client.close()


def _file(client: HttpClient, url: str, etag: str | None = None, *, in_order: bool = False) -> File:
    url = f"{url}/a.bin"
    return RemoteFile(
        client, url, len(_CONTENT), etag, lambda renew: Located(url), in_order=in_order
    )


def _etag(client: HttpClient, served: Nginx) -> str:
    return client.request("HEAD", f"{served.url}/a.bin", what="etag").headers["etag"]


def _read_in_parts(file: File, threads: int = 4) -> bytes:
    memory = bytearray(file.size)
    view = memoryview(memory)
    starts = range(0, file.size, _PART)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda at: file.read_into(at, view[at : at + _PART]), starts))
    return bytes(memory)


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_bytes_are_the_same_under_faults(seed: int, served: Nginx, client: HttpClient) -> None:
    etag = _etag(client, served)
    rates = {"cut": 0.05, "busy": 0.05, "truncate": 0.02}
    if seed % 2:
        rates = {
            "cut": 0.1,
            "busy": 0.1,
            "truncate": 0.1,
            "error": 0.05,
            "wrong": 0.05,
            "whole": 0.05,
        }
    with faults(served.url, seed=seed, delay=0.05, seconds=0.01, **rates) as proxy:  # type: ignore[arg-type]
        assert _read_in_parts(_file(client, proxy.url, etag)) == _CONTENT
        in_order = _file(client, proxy.url, etag, in_order=True)
        assert _read_in_parts(in_order, threads=1) == _CONTENT
        in_order.close()


def test_only_what_is_missing_is_asked_for_again(served: Nginx, client: HttpClient) -> None:
    with faults(served.url, seed=5, cut=0.8) as proxy:
        assert _file(client, proxy.url).read() == _CONTENT
        asked = [line.split("bytes=")[1].split("-") for line in proxy.requests]
    starts = [int(first) for first, _ in asked]
    assert len(starts) > 2
    assert starts == sorted(starts) and starts[0] == 0 < starts[-1]
    assert {int(last) for _, last in asked} == {len(_CONTENT) - 1}


def test_what_arrived_before_a_break_is_kept(client: HttpClient) -> None:
    half = len(_CONTENT) // 2

    def answer(request: Request) -> Answer:
        first = int(request.headers["range"].removeprefix("bytes=").split("-")[0])
        last = len(_CONTENT) - 1
        headers = {
            "Content-Range": f"bytes {first}-{last}/{len(_CONTENT)}",
            "Content-Length": str(last - first + 1),
        }
        if len(server.requests) == 1:
            return Answer(_CONTENT[:half], 206, headers, closes=True)
        return Answer(_CONTENT[first:], 206, headers)

    with scripted(answer) as server:
        assert _file(client, server.url).read() == _CONTENT
        ranges = [request.headers["range"] for request in server.requests]
    assert ranges == [f"bytes={at}-{len(_CONTENT) - 1}" for at in (0, half)]


def test_progress_begins_the_deadline_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    patience = Patience(Options(deadline=10, backoff=0), "a.bin")
    for _ in range(5):
        now[0] += 9
        patience.again(TryAgainError("a break"))
        patience.progress()
    now[0] += 9
    patience.forgive(5)  # behind other reads
    now[0] += 5
    assert patience.left == 1
    patience.again(TryAgainError("a break"))
    now[0] += 2
    said = "a.bin: cannot be read: a break. Given up after 2 tries in 11.0 s without a byte"
    with pytest.raises(ReadError, match=re.escape(said)):
        patience.again(TryAgainError("a break"))


@pytest.mark.parametrize("in_order", [False, True])
def test_a_file_that_changes_is_one_clear_error(
    in_order: bool, served: Nginx, client: HttpClient
) -> None:
    etag = _etag(client, served)
    with faults(served.url, changed=1.0) as proxy:
        file = _file(client, proxy.url, etag, in_order=in_order)
        with pytest.raises(ReadError, match=r"a.bin: the file changed while it was read: its ETag"):
            file.read(100, 100)
        assert len(proxy.requests) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(b"x" * 10, 200), "the file changed while it was read: it has 10 bytes"),
        (Answer(b"", 416), "the file changed while it was read: the server answered 416"),
        (Answer(b"", 412), "the file changed while it was read"),
        (Answer(_CONTENT), "the whole file was answered where bytes 100 to 200"),
        (Answer(b"x", 206), "answered the Content-Range ''"),
        (Answer(b"x", 206, {"Content-Range": "bytes 101-200/600011"}), "answered bytes 101 to 201"),
        (Answer(b"x", 206, {"Content-Range": "bytes 100-200/600011"}), "answered bytes 100 to 201"),
        (Answer(b"x" * 101, 206, {"Content-Range": "bytes 100-199/600011"}), "answered 101 bytes"),
        (Answer(b"x", 206, {"Content-Range": "bytes 100-199/600012"}), "it has 600012 bytes"),
        (Answer(b"x", 206, {"Content-Encoding": "gzip"}), "answered the Content-Encoding 'gzip'"),
        (Answer(b"x", 204), "answered 204, expected 206"),
        (Answer(b"x", 206, {"ETag": '"b"'}), 'its ETag is "b", it was "a"'),
    ],
)
def test_other_bytes_than_were_asked_for(answer: Answer, said: str, client: HttpClient) -> None:
    with scripted(lambda request: answer) as server:
        file = _file(client, server.url, '"a"')
        with pytest.raises(ReadError) as caught:
            file.read(100, 100)
        assert said in str(caught.value)
        assert len(server.requests) <= 4
        asked = server.requests[0].headers
        assert (asked["range"], asked["if-range"]) == ("bytes=100-199", '"a"')
        assert asked["accept-encoding"] == "identity"


def test_weak_etags_are_compared_but_not_sent(client: HttpClient) -> None:
    answer = Answer(b"x" * 100, 206, {"Content-Range": "bytes 100-199/600011", "ETag": '"a"'})
    with scripted(lambda request: answer) as server:
        assert _file(client, server.url, 'W/"a"').read(100, 100) == b"x" * 100
        assert "if-range" not in server.requests[0].headers


def test_a_whole_file_is_as_good_as_its_whole_range(client: HttpClient) -> None:
    with scripted(lambda request: Answer(_CONTENT)) as server:
        file = _file(client, server.url)
        assert file.read() == _CONTENT
        assert file.read(0, 10) == _CONTENT[:10]


@pytest.mark.parametrize("in_order", [False, True])
def test_an_address_is_renewed_once_a_try(in_order: bool, client: HttpClient) -> None:
    asked: list[bool] = []

    def locate(renew: bool) -> Located:
        asked.append(renew)
        return Located(f"{server.url}/a", {"Authorization": f"token {sum(asked)}"})

    def answer(request: Request) -> Answer:
        if request.headers["authorization"] != "token 1":
            return Answer(b"", 403)
        if in_order:
            return Answer(b"x" * 10)
        return Answer(b"x" * 10, 206, {"Content-Range": "bytes 0-9/10"})

    with scripted(answer) as server:
        file = RemoteFile(client, "what", 10, None, locate, in_order=in_order)
        assert file.read() == b"x" * 10
        assert asked == [False, True]
        with pytest.raises(AccessError, match=r"what: access is refused \(403\)"):
            RemoteFile(
                client, "what", 10, None, lambda r: Located(server.url, {"Authorization": "no"})
            ).read()
        file.close()


def test_a_file_that_is_gone(served: Nginx, client: HttpClient) -> None:
    file = RemoteFile(client, "gone", 10, None, lambda renew: Located(f"{served.url}/gone"))
    with pytest.raises(NotFoundError, match="gone: there is no such file"):
        file.read()


def test_a_server_that_dies_is_one_error_within_the_deadline(served: Nginx) -> None:
    client = HttpClient(Options(backoff=0.01, backoff_limit=0.05, deadline=1.5))
    with faults(served.url) as proxy:
        file = _file(client, proxy.url)
        assert file.read(0, 1000) == _CONTENT[:1000]
        proxy.dead = True
        with pytest.raises(ReadError, match=r"a.bin: cannot be read: .* Given up after \d+ tries"):
            file.read()
    client.close()


def test_streams_begin_again_where_they_must(served: Nginx, client: HttpClient) -> None:
    with faults(served.url) as proxy:
        file = _file(client, proxy.url, in_order=True)
        assert file.streams == 1
        for start in (0, 100, 5000):
            assert file.read(start, 50) == _CONTENT[start : start + 50]
        assert len(proxy.requests) == 1, "forward on the same stream"
        assert file.read(40, 10) == _CONTENT[40:50]
        assert len(proxy.requests) == 2, "backward on another"
        assert file.read(len(_CONTENT) - 5, 5) == _CONTENT[-5:]
        file.close()
        with pytest.raises(ReadError, match="read after it was closed"):
            file.read(0, 1)


def test_what_was_uploaded_in_chunks_is_read_as_it_is(client: HttpClient) -> None:
    """Some stores keep the word, of how an upload came."""
    headers = {"Content-Encoding": "aws-chunked", "Content-Range": "bytes 5-9/600011"}
    with scripted(lambda request: Answer(_CONTENT[5:10], 206, headers)) as server:
        assert _file(client, server.url).read(5, 5) == _CONTENT[5:10]


def test_a_stream_that_always_breaks_is_given_up(served: Nginx) -> None:
    client = HttpClient(Options(backoff=0.001, deadline=60))
    with faults(served.url, seed=4, truncate=1.0) as proxy:
        file = _file(client, proxy.url, _etag(client, served), in_order=True)
        with pytest.raises(
            ReadError, match=r"broke 8 times before byte \d+, from a server without"
        ):
            file.read(len(_CONTENT) - 1, 1)
        file.close()
    client.close()


@pytest.mark.parametrize("in_order", [False, True])
def test_cancellation_leaves_no_thread_and_no_socket(in_order: bool, served: Nginx) -> None:
    client = HttpClient(Options(deadline=600, read_timeout=600))
    cancellation = Cancellation()
    results: list[str] = []

    def read(file: File) -> None:
        try:
            file.read_into(0, memoryview(bytearray(file.size)), cancellation)
        except CancelledError:
            results.append("cancelled")

    before = threading.active_count(), _sockets()
    with faults(served.url, stall=1.0) as proxy:
        files = [_file(client, proxy.url, in_order=in_order) for _ in range(6)]
        threads = [threading.Thread(target=read, args=(file,)) for file in files]
        for thread in threads:
            thread.start()
        _until(lambda: proxy.counts["stall"] == 6)
        cancellation.cancel()
        for thread in threads:
            thread.join(20)
        assert results == ["cancelled"] * 6
        for file in files:
            file.close()
        client.close()
    assert (threading.active_count(), _sockets()) == before


def _sockets() -> int:
    """How many this process has."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(link.readlink()).startswith("socket:")
    return found


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_read_that_is_cancelled_can_be_repeated(served: Nginx, client: HttpClient) -> None:
    with faults(served.url) as proxy:
        file = _file(client, proxy.url, in_order=True)
        cancellation = Cancellation()
        cancellation.cancel()
        with pytest.raises(CancelledError):
            file.read_into(0, memoryview(bytearray(10)), cancellation)
        assert file.read(0, 10) == _CONTENT[:10]
        file.close()


def test_fewer_requests_at_a_time_once_the_host_is_busy(served: Nginx) -> None:
    client = HttpClient(Options(backoff=0.002, backoff_limit=0.01, deadline=30, streams=8))
    with faults(served.url, seed=2, busy=0.5) as proxy:
        assert _read_in_parts(_file(client, proxy.url), threads=8) == _CONTENT
        assert client.gate(proxy.url).limit < 8
        assert client.gate(proxy.url).inside == 0
    client.close()
