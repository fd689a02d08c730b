"""nginx on loopback: Debian's from the lock under Bazel, that of PATH elsewhere."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zml.testing.servers.certificates import self_signed

_SECONDS = 30.0
# Of this file in runfiles, where Debian's files are in repositories beside the project's.
_RUNFILES = Path(__file__).parents[4]

_CONFIGURATION = """\
daemon off;
{process}
pid {home}/pid;
error_log {home}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format lines '$request_method $request_uri $status $http_range';
  access_log {home}/access.log lines;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  absolute_redirect off;
  merge_slashes off;
  keepalive_requests 100000;
  server {{
    listen 127.0.0.1:{port} {tls};
    root "{folder}";
    {options}
    # To the same file, on this host or under another of its names; in a circle; and without an end.
    location /redirect/ {{ rewrite ^/redirect/(.*)$ /$1 redirect; }}
    location /elsewhere/ {{ rewrite ^/elsewhere/(.*)$ {scheme}://localhost:{port}/$1 redirect; }}
    location /circle {{ return 302 /circle; }}
    location /endless {{ return 302 $request_uri+; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A server that is running."""

    url: str
    """Of the folder, without a "/" at its end."""
    certificate: Path | None
    """The authority to trust, for SSL_CERT_FILE; None without TLS."""
    home: Path
    """Its configuration and its logs."""

    def requests(self) -> list[str]:
        """Those that were answered so far, each as `GET /a.bin 206 bytes=0-99`; "-" is for no range."""
        return (self.home / "access.log").read_text().splitlines()


@contextlib.contextmanager
def nginx(
    folder: Path,
    *,
    ranges: bool = True,
    tls: bool = False,
    credentials: str | None = None,
    listing: Literal["html", "json"] | None = None,
    workers: int = 0,
    options: str = "",
) -> Iterator[Nginx]:
    """Serves a folder. Redirects lead from /redirect/NAME and, to another host name, from /elsewhere/NAME.

    `credentials`: user:password, asked for with Basic. `listing`: of folders. `workers`: processes; 0: all in one.
    `options`: more lines for nginx's `server`.
    """
    with tempfile.TemporaryDirectory(prefix="nginx") as name:
        home = Path(name)
        lines = [options]
        if not ranges:
            lines.append("max_ranges 0;")
        if listing is not None:
            lines.append(f"autoindex on; autoindex_format {listing};")
        if credentials is not None:
            user, _, password = credentials.partition(":")
            (home / "users").write_text(f"{user}:{{PLAIN}}{password}\n")
            lines.append(f'auth_basic "test"; auth_basic_user_file {home}/users;')
        certificate = None
        if tls:
            certificate, key = self_signed(home)
            lines.append(f"ssl_certificate {certificate}; ssl_certificate_key {key};")
        process = f"worker_processes {workers};" if workers else "master_process off;"
        if os.geteuid() == 0:
            # As this process: a folder of a test may be its user's alone.
            process += f" user {pwd.getpwuid(0).pw_name};"
        scheme = "https" if tls else "http"
        values = {"home": home, "process": process, "folder": folder, "scheme": scheme}
        values |= {"tls": "ssl" if tls else "", "options": "\n    ".join(lines)}
        with _started(home, values) as port:
            yield Nginx(f"{scheme}://127.0.0.1:{port}", certificate, home)


@contextlib.contextmanager
def _started(home: Path, values: dict[str, object]) -> Iterator[int]:
    # A port that is free may be taken by another test before nginx has it.
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        (home / "nginx.conf").write_text(_CONFIGURATION.format(port=port, **values))
        command = [*_program(), "-p", str(home), "-c", str(home / "nginx.conf")]
        process = subprocess.Popen(
            [*command, "-e", str(home / "error.log")], stderr=subprocess.DEVNULL
        )
        try:
            if _is_up(process, port):
                yield port
                return
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_SECONDS)
    raise RuntimeError(f"nginx does not start:\n{(home / 'error.log').read_text()}")


def _is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        time.sleep(0.01)
    return False


def _program() -> list[str]:
    """How to start it: with the C library from the lock, or as it is installed."""
    for program in sorted(_RUNFILES.glob("*debian_nginx_*/usr/sbin/nginx")):
        own = program.parents[2]
        [libc] = _RUNFILES.glob("*debian_glibc_*/usr/lib/*-linux-gnu*")
        [loader] = libc.glob("ld-linux-*")
        libraries = f"{libc}:{own / 'usr/lib' / libc.name}"
        return [str(loader), "--library-path", libraries, str(program)]
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = shutil.which("nginx", path=path)
    if found is None:
        raise RuntimeError("these tests need nginx: run them with Bazel, or install Debian's nginx")
    return [found]
