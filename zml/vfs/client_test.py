import email.utils
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zml.errors import AccessError, CancelledError, NotFoundError, ReadError, UsageError
from zml.testing.servers import Answer, Request, nginx, scripted
from zml.vfs import Cancellation, Options
from zml.vfs.client import HttpClient, request_target
from zml.vfs.gate import Gate
from zml.vfs.patience import TryAgainError, retry_after
from zml.vfs.urls import redacted

_OPTIONS = Options(backoff=0.001, deadline=20)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpClient]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    client = HttpClient(_OPTIONS)
    yield client
    client.close()


def _get(client: HttpClient, url: str, **headers: str) -> bytes:
    return client.request("GET", url, headers, what=url).body


def test_connections_are_kept_and_used_again(client: HttpClient) -> None:
    with scripted(lambda request: Answer(b"x" * 100)) as server:
        for _ in range(5):
            assert _get(client, server.url) == b"x" * 100
        client.request("HEAD", server.url, what="head")
        assert len({request.client for request in server.requests}) == 1
        assert server.requests[0].headers["user-agent"] == "zml"


def test_an_idle_connection_that_was_closed_is_no_failure() -> None:
    # Without patience: the second connection is not another try.
    client = HttpClient(Options(backoff=60, deadline=20))
    with scripted(lambda request: Answer(b"x", closes=True)) as server:
        for _ in range(3):
            assert _get(client, server.url) == b"x"
        assert len(server.requests) == 3
    client.close()


def test_what_follows_a_204_is_not_taken_for_an_answer(client: HttpClient) -> None:
    with scripted(lambda request: Answer(b"x", status=204)) as server:
        for _ in range(3):
            assert _get(client, server.url) == b""
        assert len({request.client for request in server.requests}) == len(server.requests) == 3


def test_methods_and_bodies(client: HttpClient) -> None:
    with scripted(lambda request: Answer(request.method.encode() + request.body)) as server:
        got = client.request("POST", server.url + "/a?b=c", {"X-A": "1"}, b"body", what="w")
        assert (got.status, got.body, got.url) == (200, b"POSTbody", server.url + "/a?b=c")
        assert server.requests[0].headers["x-a"] == "1"
        assert server.requests[0].target == "/a?b=c"


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (404, NotFoundError, "there is no such file or folder (404)"),
        (401, AccessError, "asks for credentials (401)"),
        (403, AccessError, "access is refused (403): no entry"),
        (400, ReadError, "the server answered 400: no entry"),
    ],
)
def test_failures_by_status(
    client: HttpClient, status: int, kind: type[ReadError], said: str
) -> None:
    answer = Answer(b"<Error><Message>no entry</Message></Error>", status)
    with scripted(lambda request: answer) as server:
        with pytest.raises(kind) as caught:
            _get(client, server.url + "/a.bin")
        assert type(caught.value) is kind
        assert said in str(caught.value) and f"{server.url}/a.bin: " in str(caught.value)
        assert len(server.requests) == 1, "tried again"
        got = client.request("GET", server.url, what="w", accept=(status,))
        assert (got.status, got.body) == (status, answer.body)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(client: HttpClient, status: int) -> None:
    def answer(request: Request) -> Answer:
        return Answer(b"well") if len(server.requests) > 3 else Answer(b"no", status)

    with scripted(answer) as server:
        assert _get(client, server.url) == b"well"
        assert len(server.requests) == 4


def test_retry_after_is_kept_to_for_the_whole_host(client: HttpClient) -> None:
    times = []

    def answer(request: Request) -> Answer:
        times.append(time.monotonic())
        return Answer(b"well") if len(times) > 1 else Answer(b"", 429, {"Retry-After": "1"})

    with scripted(answer) as server:
        threads = [threading.Thread(target=_get, args=(client, server.url)) for _ in range(3)]
        threads[0].start()
        while client.gate(server.url).limit == Gate().limit:
            time.sleep(0.001)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(times) == 4
    assert min(times[1:]) - times[0] >= 1


def test_retry_after_beyond_the_deadline_is_an_error_at_once(client: HttpClient) -> None:
    said = r"answered 429; it asks to wait 3600 s.*after 1 try"
    refusal = Answer(b"", 429, {"Retry-After": "3600"})
    with scripted(lambda request: refusal) as server, pytest.raises(ReadError, match=said):
        _get(client, server.url)


def test_retry_after_may_be_a_date() -> None:
    assert retry_after("120") == 120
    wait = retry_after(email.utils.formatdate(time.time() + 90, usegmt=True))
    assert wait is not None and 85 < wait <= 90
    assert retry_after(email.utils.formatdate(time.time() - 90)) == 0
    assert retry_after("soon") is retry_after(None) is None


def test_more_than_the_limit_is_refused(client: HttpClient) -> None:
    with scripted(lambda request: Answer(b"x" * 1000)) as server:
        with pytest.raises(ReadError, match="more than 999 bytes"):
            client.request("GET", server.url, what="w", limit=999)
        assert len(client.request("GET", server.url, what="w", limit=1000).body) == 1000


def test_chunked_bodies_and_bodies_to_the_end(client: HttpClient) -> None:
    chunked = Answer(
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", 200, {"Transfer-Encoding": "chunked"}
    )
    with scripted(lambda request: chunked) as server:
        assert _get(client, server.url) == b"hello world"
        assert _get(client, server.url) == b"hello world"
        assert len({request.client for request in server.requests}) == 1


def test_redirects(client: HttpClient, tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_bytes(b"found")
    with nginx(tmp_path) as server:
        got = client.request("GET", f"{server.url}/redirect/a b.txt", what="w")
        assert (got.body, got.url) == (b"found", f"{server.url}/a%20b.txt")
        other = server.url.replace("127.0.0.1", "localhost")
        got = client.request("GET", f"{server.url}/elsewhere/a%20b.txt", what="w")
        assert (got.body, got.url) == (b"found", f"{other}/a%20b.txt")
        got = client.request("GET", f"{server.url}/redirect/a", what="w", follow=False)
        assert (got.status, got.headers["location"]) == (302, "/a")
        with pytest.raises(ReadError, match=r"the file: its redirects go in a circle: .*/circle"):
            client.request("GET", f"{server.url}/circle", what="the file")
        with pytest.raises(ReadError, match="the file: more than 10 redirects"):
            client.request("GET", f"{server.url}/endless", what="the file")


def test_credentials_stay_with_their_origin(client: HttpClient) -> None:
    secret = {
        "Authorization": "Bearer t",
        "Cookie": "c",
        "X-Amz-Security-Token": "s",
        "X-Other": "o",
    }

    def answer(request: Request) -> Answer:
        if request.target.startswith("/from"):
            return Answer(b"", 302, {"Location": request.target.removeprefix("/from/")})
        return Answer(b"here")

    with scripted(answer) as server, scripted(answer) as other:
        client.request("GET", f"{server.url}/from/{other.url}/x", secret, what="w")
        client.request("GET", f"{server.url}/from//y", secret, what="w")
        assert "authorization" in server.requests[0].headers
        gone = other.requests[0].headers
        assert not gone.keys() & {"authorization", "cookie", "x-amz-security-token"}
        assert gone["x-other"] == "o"
        assert gone["host"] == f"127.0.0.1:{other.port}"
        assert server.requests[2].headers["authorization"] == "Bearer t"
        with pytest.raises(ReadError, match="neither http nor https"):
            client.request("GET", f"{server.url}/from/file:///etc/passwd", what="w")


def test_posts_become_gets_where_redirects_say_so(client: HttpClient) -> None:
    for status, method in ((302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
        answers = iter([Answer(b"", status, {"Location": "/b"}), Answer(b"done")])
        with scripted(lambda request, answers=answers: next(answers)) as server:  # type: ignore[misc]
            client.request("POST", server.url, {}, b"body", what="w")
            last = server.requests[-1]
            assert (last.method, last.body) == (method, b"body" if method == "POST" else b"")


def test_a_dead_server_is_one_error_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    client = HttpClient(Options(deadline=0.5, backoff=0.01))
    url = f"http://me:secret@127.0.0.1:{port}/a?token=secret"
    with pytest.raises(
        ReadError, match=r"Given up after \d+ tries in .*the deadline is 0.5 s"
    ) as caught:
        _get(client, url)
    assert "secret" not in str(caught.value)
    client.close()


def test_a_silent_server_is_one_error_within_the_deadline() -> None:
    client = HttpClient(Options(deadline=0.5, read_timeout=0.1, backoff=0.01))
    stalling = Answer(b"abc", 200, {"Content-Length": "10"}, stalls=True)
    said = r"timed out. Given up"
    with scripted(lambda request: stalling) as server, pytest.raises(ReadError, match=said):
        _get(client, server.url)
    client.close()


def test_cancellation_ends_every_kind_of_wait() -> None:
    client = HttpClient(Options(backoff=60, backoff_limit=60, deadline=600, streams=2))
    stalling = Answer(b"abc", 200, {"Content-Length": "10"}, stalls=True)
    cancellation = Cancellation()
    caught: list[BaseException] = []

    def read(url: str) -> None:
        try:
            client.request("GET", url, what=url, cancellation=cancellation)
        except BaseException as error:
            caught.append(error)

    with (
        scripted(lambda request: stalling) as body,
        scripted(lambda request: Answer(b"", 500)) as sleep,
        socket.create_server(("127.0.0.1", 0)) as silent,  # never answers
    ):
        # Two are let in to the first, and the third waits for them.
        urls = [body.url] * 3 + [sleep.url, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        threads = [threading.Thread(target=read, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        while len(body.requests) < 2 or not sleep.requests:
            time.sleep(0.001)
        time.sleep(0.05)
        cancellation.cancel()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
    assert [type(error) for error in caught] == [CancelledError] * 5
    client.close()


def test_closing_ends_what_is_being_read() -> None:
    client = HttpClient(Options(deadline=600))
    caught: list[BaseException] = []

    def read() -> None:
        try:
            _get(client, server.url)
        except BaseException as error:
            caught.append(error)

    stalling = Answer(b"abc", 200, {"Content-Length": "10"}, stalls=True)
    with scripted(lambda request: stalling) as server:
        thread = threading.Thread(target=read)
        thread.start()
        while not server.requests:
            time.sleep(0.001)
        client.close()
        thread.join(20)
        assert not thread.is_alive()
    assert [type(error) for error in caught] == [ReadError]
    assert "closed" in str(caught[0])


def test_the_gate_halves_and_grows() -> None:
    gate, never = Gate(8), Cancellation()
    entered = [gate.enter(never) for _ in range(8)]
    for since in entered:
        gate.busy(since)
    assert gate.limit == 4, "requests that went together count once"
    for _ in entered:
        gate.leave()
    gate.busy(gate.enter(never))
    assert gate.limit == 2
    for _ in range(10):
        gate.well()
    assert gate.limit == 2, "a limit that is not reached does not grow"
    gate.enter(never)
    for _ in range(1000):
        gate.well()
        while gate.inside < gate.limit:
            gate.enter(never)
    assert gate.limit == 8, "and never beyond what was asked for"
    cancelled = Cancellation()
    cancelled.cancel()
    with pytest.raises(CancelledError):
        gate.enter(cancelled)


def test_others_do_not_wait_beyond_their_deadline_for_a_pause(client: HttpClient) -> None:
    with scripted(lambda request: Answer(b"", 429, {"Retry-After": "3600"})) as server:
        for said in ("answered 429; it asks to wait 3600 s", "asked too often; it asks to wait 3"):
            with pytest.raises(ReadError, match=said):
                _get(client, server.url)
        assert len(server.requests) == 1


def test_a_pause_that_is_too_long_wakes_all_who_wait() -> None:
    gate, never = Gate(1), Cancellation()
    since = gate.enter(never)
    ended: list[str] = []

    def wait() -> None:
        try:
            gate.enter(never, longest=5)
        except TryAgainError as error:
            ended.append(error.reason)

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    while gate.waiting < 5:
        time.sleep(0.001)
    gate.busy(since, pause=300)
    gate.leave()
    for thread in threads:
        thread.join(20)
    assert ended == ["the server said that it is asked too often"] * 5
    assert (gate.inside, gate.waiting) == (0, 0)


def test_who_waits_at_the_gate_comes_before_who_comes_again() -> None:
    gate, never = Gate(1), Cancellation()
    gate.enter(never)
    let_in = threading.Event()

    def wait() -> None:
        gate.enter(never)
        let_in.set()
        gate.leave()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not gate.waiting:
        time.sleep(0.001)
    gate.leave()
    gate.enter(never)
    assert let_in.is_set()
    gate.leave()
    thread.join()


@pytest.mark.parametrize("bad", ["SECRET\n", "SECRET\r\nX-A: b", "SECRET\0", "SECRETü🙂"])
def test_what_no_header_may_have_is_an_error_at_once_without_it(
    client: HttpClient, bad: str
) -> None:
    with scripted(lambda request: Answer(b"x")) as server:
        with pytest.raises(UsageError, match="the header Authorization has a line break") as caught:
            _get(client, server.url, Authorization=f"Bearer {bad}")
        assert "SECRET" not in str(caught.value) and not server.requests
    assert client.gate(server.url).inside == 0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a..b/x", "there is no host a..b"),
        (f"http://{'x' * 70}.example/x", "there is no host xxx"),
        ("http://my host/x", "'my host' is no name of a host"),
        ("http://[::1/x", "http://...: is no URL"),
        ("http://user:SECRET/@h/x", "http://...: is no URL"),
        ("http://h:99999/", "http://...: is no URL"),
    ],
)
def test_names_of_hosts_that_are_none(client: HttpClient, url: str, said: str) -> None:
    with pytest.raises((ReadError, UsageError), match=re.escape(said)) as caught:
        _get(client, url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("location", ["http://[::1/x", "http://my host/x", "http://h:99999/"])
def test_a_redirect_to_what_is_no_url(client: HttpClient, location: str) -> None:
    answer = Answer(b"", 302, {"Location": location})
    with (
        scripted(lambda request: answer) as server,
        pytest.raises(ReadError, match="redirected"),
    ):
        _get(client, server.url)


def test_a_server_without_tls_is_an_error_at_once(client: HttpClient) -> None:
    said = "does not speak TLS on this port: is it http"
    with (
        scripted(lambda request: Answer(b"x")) as server,
        pytest.raises(ReadError, match=said),
    ):
        _get(client, f"https://127.0.0.1:{server.port}/")


def test_what_is_asked_for_is_quoted() -> None:
    assert request_target("http://h") == "/"
    assert (
        request_target("http://h/a b/100%/ü?q=a b&c=%20#f") == "/a%20b/100%25/%C3%BC?q=a%20b&c=%20"
    )
    assert request_target("http://h/a%20b+c") == "/a%20b+c"


def test_secrets_in_urls_are_left_out_of_texts() -> None:
    said = redacted(
        "at https://me:pw@h/a?X-Amz-Signature=abc&x=1 then 'http://h/b' and s3://k@b/c?d"
    )
    assert said == "at https://h/a?... then 'http://h/b' and s3://b/c?d"
    assert redacted("http://user:p@ss@host/x") == "http://host/x"
    for path in ("it's.bin", "a b.bin"):
        assert redacted(f"http://h/{path}?sig=SECRET") == f"http://h/{path}?..."
