import base64
import http.server
import json
import os
import pwd
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from zml.errors import AccessError, NotFoundError, ReadError, UnsupportedError, UsageError
from zml.testing.servers import Answer, Request, nginx, scripted
from zml.vfs import Options, Vfs, autoindex
from zml.vfs.client import Response

_CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.delenv("ZML_HTTP_BEARER", raising=False)


@pytest.fixture
def vfs() -> Iterator[Vfs]:
    with Vfs(Options(backoff=0.001, deadline=20)) as vfs:
        yield vfs


def _ranged(request: Request) -> Answer:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    body = _CONTENT[int(first) : int(last) + 1]
    content = f"bytes {first}-{int(first) + len(body) - 1}/{len(_CONTENT)}"
    return Answer(body, 206, {"Content-Range": content})


def test_servers_that_refuse_head_are_read(vfs: Vfs) -> None:
    def answer(request: Request) -> Answer:
        return _ranged(request) if request.method == "GET" else Answer(b"", 405)

    with scripted(answer) as server, vfs.open(f"{server.url}/a") as file:
        assert (file.size, file.etag, file.in_order) == (len(_CONTENT), None, False)
        assert file.read(3, 1000) == _CONTENT[3:1003]
        assert len(server.requests) == 2, "one to open it"


def test_a_file_of_unknown_size_is_read_at_once(vfs: Vfs) -> None:
    chunked = Answer(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 200, {"Transfer-Encoding": "chunked"})
    with scripted(lambda request: chunked) as server:
        assert vfs.stat(f"{server.url}/a").size == 5
        assert vfs.read(f"{server.url}/a") == b"abcde"


def test_other_encodings_are_refused(vfs: Vfs) -> None:
    with scripted(lambda request: Answer(b"x", 200, {"Content-Encoding": "gzip"})) as server:
        with pytest.raises(ReadError, match="Content-Encoding 'gzip' where identity was asked for"):
            vfs.open(f"{server.url}/a")
        assert server.requests[0].headers["accept-encoding"] == "identity"


def test_without_an_etag_the_date_must_stay(vfs: Vfs) -> None:
    dates = iter(("Thu, 01 Jan 1970 00:00:10 GMT", "Thu, 01 Jan 1970 00:00:11 GMT"))

    def answer(request: Request) -> Answer:
        found = _ranged(request)
        return Answer(found.body, 206, {**found.headers, "Last-Modified": next(dates)})

    with scripted(answer) as server, vfs.open(f"{server.url}/a") as file:
        said = "the file changed while it was read: it was modified"
        with pytest.raises(ReadError, match=said):
            file.read()


def test_servers_without_ranges_are_read_in_order(vfs: Vfs, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path, ranges=False) as server, vfs.open(f"{server.url}/a.bin") as file:
        assert file.in_order and file.streams == 1
        before = len(server.requests())
        assert file.read(10, 100) + file.read(110, 100) == _CONTENT[10:210]
        assert file.read(5000) == _CONTENT[5000:]
        assert len(server.requests()) == before + 1


def test_basic_credentials(vfs: Vfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path, credentials="me:p@ss word") as server:
        url = f"{server.url}/a.bin"
        with pytest.raises(AccessError, match=r"asks for credentials \(401\)"):
            vfs.open(url)
        own = url.replace("//", "//me:p%40ss%20word@")
        assert vfs.read(own) == _CONTENT
        with pytest.raises(AccessError) as caught:
            vfs.open(url.replace("//", "//me:wrong@"))
        assert "wrong" not in str(caught.value) and url in str(caught.value)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        vfs.close()
        with pytest.raises(AccessError):
            vfs.open(url)
        (tmp_path / "netrc").write_text('machine 127.0.0.1 login me password "p@ss word"\n')
        vfs.close()
        assert vfs.read(url) == _CONTENT
        (tmp_path / "home").mkdir()
        (tmp_path / "netrc").rename(tmp_path / "home/.netrc")
        monkeypatch.delenv("NETRC")
        vfs.close()
        (tmp_path / "home/.netrc").chmod(0o600)
        assert vfs.read(url) == _CONTENT
        (tmp_path / "home/.netrc").write_text("machine\n")
        vfs.close()
        with pytest.raises(UsageError, match=r"\.netrc: cannot be used"):
            vfs.open(url)
        (tmp_path / "home/.netrc").write_bytes(b"machine \xff\n")
        vfs.close()
        with pytest.raises(UsageError, match=r"\.netrc: cannot be used: it is not UTF-8"):
            vfs.open(url)


def test_a_user_without_a_home(vfs: Vfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container has it that runs as another one than its image knows."""

    def unknown(*_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with scripted(_ranged) as server:
        assert vfs.read(f"{server.url}/a") == _CONTENT


def test_a_token_of_the_environment(vfs: Vfs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZML_HTTP_BEARER", "secret")
    with scripted(_ranged) as server:
        vfs.read(f"{server.url}/a")
        vfs.read(f"http://me:pw@127.0.0.1:{server.port}/a")
        seen = [request.headers["authorization"] for request in server.requests]
    basic = "Basic " + base64.b64encode(b"me:pw").decode()
    assert seen == ["Bearer secret"] * 2 + [basic] * 2


def test_where_a_redirect_leads_is_remembered_and_asked_again(
    vfs: Vfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZML_HTTP_BEARER", "secret")
    signatures = iter("abcd")
    valid = ["a"]

    def hub(request: Request) -> Answer:
        assert request.headers["authorization"] == "Bearer secret"
        return Answer(b"", 302, {"Location": f"{store.url}/file?signature={next(signatures)}"})

    def answer(request: Request) -> Answer:
        assert "authorization" not in request.headers
        if not request.target.endswith(valid[0]):
            return Answer(b"", 403)
        return _ranged(request)

    with scripted(answer) as store, scripted(hub) as server, vfs.open(f"{server.url}/a") as file:
        assert file.read(0, 10) + file.read(10, 10) == _CONTENT[:20]
        assert len(server.requests) == 1
        valid[0] = "b"  # the first expires
        assert file.read(20, 10) == _CONTENT[20:30]
        assert len(server.requests) == 2
        valid[0] = "never"
        with pytest.raises(AccessError) as caught:
            file.read(20, 10)
        assert "signature" not in str(caught.value)


def test_a_redirect_to_another_page_is_no_file(vfs: Vfs) -> None:
    def answer(request: Request) -> Answer:
        if request.target in ("/m/config.json", "/m/latest"):
            to = "/login/" if "config" in request.target else "/m/v2/"
            return Answer(b"", 302, {"Location": to})
        return Answer(b"<html>")

    with scripted(answer) as server:
        with pytest.raises(ReadError, match=r"redirected to .*/login/, .*ask for a login"):
            vfs.open(f"{server.url}/m/config.json")
        with pytest.raises(ReadError, match="is a folder, expected a file"):
            vfs.open(f"{server.url}/m/v2/")
        assert vfs.stat(f"{server.url}/m/latest").is_folder


def test_folders_that_are_not_listed(vfs: Vfs, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(_CONTENT)
    with nginx(tmp_path) as server:
        assert vfs.stat(server.url + "/").is_folder
        with pytest.raises(UnsupportedError, match=r"does not list this folder.*autoindex on"):
            list(vfs.list(server.url))
    for page in (
        Answer(b"<html><title>Welcome</title><a href='a.bin'>a</a></html>", 200, _HTML),
        Answer(b"a.bin"),
        Answer(b'{"a": 1}', 200, {"Content-Type": "application/json"}),
        Answer(b"[1]", 200, {"Content-Type": "application/json"}),
    ):
        said = "has no listing of this folder: give the"
        answered = scripted(lambda request, page=page: page)  # type: ignore[misc]
        with answered as plain, pytest.raises(UnsupportedError, match=said):
            list(vfs.list(plain.url))
    with scripted(lambda request: Answer(b"", 404)) as none, pytest.raises(NotFoundError):
        list(vfs.list(none.url + "/a"))


_HTML = {"Content-Type": "text/html; charset=utf-8"}
_APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN">
<html><head><title>Index of /m</title></head><body><h1>Index of /m</h1><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td><td>&nbsp;</td><td align="right">  - </td></tr>
<tr><td><a href="sub/">sub/</a></td><td align="right">2026-01-02 03:04  </td><td align="right">  - </td></tr>
<tr><td><a href="b%20c.txt">b c.txt</a></td><td align="right">2026-01-02 03:04  </td><td align="right"> 12 </td></tr>
<tr><td><a href="a.bin">a.bin</a></td><td align="right">2026-01-02 03:04  </td><td align="right">1.2G</td></tr>
</table></body></html>"""
_PYTHON = """<!DOCTYPE HTML><html lang="en"><head><title>Directory listing for /m/</title></head>
<body><h1>Directory listing for /m/</h1><hr><ul><li><a href="a.bin">a.bin</a></li>
<li><a href="b%20c.txt">b c.txt</a></li><li><a href="sub/">sub/</a></li></ul></body></html>"""
_ODD = """<title>Index of /m</title><a href="http://elsewhere/m/x">x</a><a href="../up">up</a>
<a href="/m/a.bin">a</a><a href="b c.txt#f">b</a><a href="./sub/">s</a><a href="sub/deep">d</a><a>no</a>"""


@pytest.mark.parametrize(
    ("page", "sizes"),
    [(_APACHE, [None, 12, None]), (_PYTHON, [None] * 3), (_ODD, [None] * 3)],
)
def test_index_pages(page: str, sizes: list[int | None]) -> None:
    response = Response(200, {"content-type": "text/html"}, page.encode(), "http://h/m/")
    entries = autoindex.parse(response, "http://h/m/")
    assert entries is not None
    assert [entry.url for entry in entries] == [
        "http://h/m/a.bin", "http://h/m/b%20c.txt", "http://h/m/sub/"
    ]  # fmt: skip
    assert [entry.size for entry in entries] == sizes


def test_no_name_leads_out_of_its_folder() -> None:
    listed = [{"name": x, "type": "file"} for x in ("..", "a/b", "/etc", "", ".", "x\0", "a..b")]
    page = '<title>Index of</title><a href="%2e%2e">a</a><a href="a%2fb">b</a><a href="a..b">c</a>'
    for kind, body in (("application/json", json.dumps(listed)), ("text/html", page)):
        response = Response(200, {"content-type": kind}, body.encode(), "http://h/m/")
        entries = autoindex.parse(response, "http://h/m/")
        assert [entry.url for entry in entries or ()] == ["http://h/m/a..b"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_server_that_python_brings(vfs: Vfs, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a b.bin").write_bytes(_CONTENT)
    handler = partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            [entry] = vfs.walk(url)
            assert (entry.url, entry.name) == (f"{url}/sub/a%20b.bin", "a b.bin")
            assert vfs.read(entry.url) == _CONTENT
            with vfs.open(entry.url) as file:
                assert file.in_order
        finally:
            vfs.close()
            server.shutdown()
            thread.join()


def test_nginx_says_sizes_and_dates(vfs: Vfs, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.bin").write_bytes(_CONTENT)
    os.utime(tmp_path / "m/a.bin", (1_700_000_000, 1_700_000_000))
    for kind in ("html", "json"):
        with nginx(tmp_path, listing=kind) as server:
            [entry] = vfs.list(f"{server.url}/m")
            assert entry.size == len(_CONTENT)
            assert entry.modified == (1_700_000_000 if kind == "json" else None)
            assert vfs.stat(entry.url).modified == 1_700_000_000
