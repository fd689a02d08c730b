import base64
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from zml.errors import CancelledError, ReadError, UsageError
from zml.testing.servers import Answer, nginx, scripted
from zml.vfs import Cancellation, Options, connections
from zml.vfs.client import HttpClient
from zml.vfs.connections import tls_context

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


def test_a_proxy_of_the_environment(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        scripted(lambda request: Answer(b"through")) as proxy,
        scripted(lambda request: Answer(b"direct")) as server,
    ):
        monkeypatch.setenv("HTTP_PROXY", f"http://me:pass%21@127.0.0.1:{proxy.port}")
        assert _get(client, "http://nowhere.invalid/a?b") == b"through"
        [request] = proxy.requests
        assert request.target == "http://nowhere.invalid:80/a?b"
        pair = base64.b64encode(b"me:pass!").decode()
        assert request.headers["proxy-authorization"] == f"Basic {pair}"
        assert request.headers["host"].startswith("nowhere.invalid")
        assert _get(client, server.url) == b"direct"
        monkeypatch.setenv("NO_PROXY", ".nowhere.invalid")
        direct = HttpClient(_OPTIONS)
        monkeypatch.setattr(socket, "getaddrinfo", _missing)
        with pytest.raises(ReadError, match=r"there is no host a.nowhere.invalid"):
            _get(direct, "http://a.nowhere.invalid/")
        direct.close()
        monkeypatch.setenv("HTTP_PROXY", "socks5://me:secret@127.0.0.1:1")
        with pytest.raises(UsageError, match=r"HTTP_PROXY=socks5://127.0.0.1:1: expected http://"):
            _get(client, "http://elsewhere.invalid/")


def _missing(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def _tunnel(listener: socket.socket, seen: list[bytes], status: bytes) -> None:
    """One CONNECT, and bytes both ways."""
    near, _ = listener.accept()
    with near:
        near.settimeout(20)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += near.recv(4096)
        seen.append(head)
        near.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
        if not status.startswith(b"200"):
            return
        _, _, port = head.split()[1].partition(b":")
        with socket.create_connection(("127.0.0.1", int(port)), 20) as far:
            back = threading.Thread(target=_pump, args=(far, near))
            back.start()
            _pump(near, far)
            back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while piece := source.recv(65536):
            sink.sendall(piece)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@pytest.mark.parametrize("status", [b"200 Fine", b"403 No", b"407 Who"])
def test_https_through_a_proxy(
    status: bytes, client: HttpClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"secured")
    with nginx(tmp_path, tls=True) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pw@127.0.0.1:{listener.getsockname()[1]}")
        url = f"{server.url.replace('127.0.0.1', 'proxied.invalid')}/a.txt"
        seen: list[bytes] = []
        thread = threading.Thread(target=_tunnel, args=(listener, seen, status))
        thread.start()
        try:
            if status.startswith(b"200"):
                assert _get(client, url) == b"secured"
                assert _get(client, url) == b"secured"  # of the same connection
            else:
                said = (
                    r"asks for a user.*407" if b"407" in status else r"refuses connections to .*403"
                )
                with pytest.raises(ReadError, match=f"the proxy 127.0.0.1 {said}"):
                    _get(client, url)
        finally:
            client.close()
            thread.join()
        assert seen[0].startswith(b"CONNECT proxied.invalid:")
        assert b"Proxy-Authorization: Basic bWU6cHc=" in seen[0]


def test_certificates(client: HttpClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"secured")
    with nginx(tmp_path, tls=True) as server:
        with pytest.raises(
            ReadError, match=r"certificate of 127.0.0.1 is not trusted.*SSL_CERT_FILE"
        ):
            _get(client, f"{server.url}/a.txt")
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        trusting = HttpClient(_OPTIONS)
        assert _get(trusting, f"{server.url}/a.txt") == b"secured"
        trusting.close()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
        with pytest.raises(UsageError, match=r"missing.pem has no certificates"):
            tls_context()


def test_certificates_of_a_system_that_openssl_was_not_built_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_bytes(b"secured")
    nothing = ssl.DefaultVerifyPaths("", "", "F", "/none", "D", "/none")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    with nginx(tmp_path, tls=True) as server:
        monkeypatch.setattr(connections, "_BUNDLES", ("/none", str(server.certificate)))
        client = HttpClient(_OPTIONS)
        assert _get(client, f"{server.url}/a.txt") == b"secured"
        client.close()
        # Without any, those that certifi brings: real ones, which did not sign this.
        monkeypatch.setattr(connections, "_BUNDLES", ())
        assert tls_context().cert_store_stats()["x509_ca"] > 10
        client = HttpClient(_OPTIONS)
        with pytest.raises(ReadError, match="is not trusted"):
            _get(client, f"{server.url}/a.txt")
        client.close()


def test_cancellation_ends_reading_over_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(1 << 20))
    with nginx(tmp_path, tls=True, options="limit_rate 1k;") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        client, cancellation = HttpClient(Options(read_timeout=600)), Cancellation()
        timer = threading.Timer(0.1, cancellation.cancel)
        timer.start()
        with pytest.raises(CancelledError):
            url = f"{server.url}/a.bin"
            client.request("GET", url, what=url, cancellation=cancellation)
        timer.join()
        client.close()


def test_a_client_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"for you")
    with nginx(tmp_path, tls=True) as first:
        assert first.certificate is not None
        key = first.certificate.with_name("key.pem")
        options = f"ssl_client_certificate {first.certificate}; ssl_verify_client on;"
        with nginx(tmp_path, tls=True, options=options) as server:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
            client = HttpClient(_OPTIONS)
            with pytest.raises(ReadError, match="400"):
                _get(client, f"{server.url}/a.txt")
            client.close()
            monkeypatch.setenv("ZML_HTTP_CERTIFICATE", str(first.certificate))
            monkeypatch.setenv("ZML_HTTP_KEY", str(key))
            client = HttpClient(_OPTIONS)
            assert _get(client, f"{server.url}/a.txt") == b"for you"
            client.close()
    monkeypatch.setenv("ZML_HTTP_CERTIFICATE", str(tmp_path / "a.txt"))
    with pytest.raises(UsageError, match=r"ZML_HTTP_CERTIFICATE=.*cannot be used"):
        tls_context()


def test_a_host_that_is_not_there_is_an_error_at_once(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _missing)
    with pytest.raises(ReadError, match=r"there is no host nowhere.invalid"):
        _get(client, "http://nowhere.invalid/")
    for url in ("ftp://x/y", "http:///y", "http://x:port/"):
        with pytest.raises(UsageError):
            _get(client, url)


def test_cancellation_ends_asking_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def ask(*_: object, **__: object) -> list[object]:
        asked.set()
        answered.wait(20)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    client, cancellation = HttpClient(_OPTIONS), Cancellation()
    caught: list[BaseException] = []

    def read() -> None:
        try:
            client.request("GET", "http://slow.invalid", what="w", cancellation=cancellation)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert asked.wait(20)
    cancellation.cancel()
    thread.join(10)
    assert not thread.is_alive() and not answered.is_set()
    answered.set()
    assert [type(error) for error in caught] == [CancelledError]
    client.close()
