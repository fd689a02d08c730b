"""moto on loopback: S3, and what gives credentials for it (IAM, STS, EC2's metadata server)."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from moto import settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.iam.models import iam_backends
from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3.models import get_canned_acl, s3_backends
from werkzeug.serving import make_server

_ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


class Asked(NamedTuple):
    """A request."""

    method: str
    target: str
    """Path and query, as they were sent."""
    headers: dict[str, str]
    """Names in lower case."""

    @property
    def signed_by(self) -> str:
        """The access key of its signature."""
        return self.headers["authorization"].partition("Credential=")[2].partition("/")[0]

    @property
    def region(self) -> str:
        """That of its signature."""
        return self.headers["authorization"].split("/")[2]


class Answer(NamedTuple):
    """A response in place of moto's."""

    status: int
    headers: dict[str, str] = {}  # noqa: RUF012  # never changed
    body: str = ""

    @staticmethod
    def failure(status: int, code: str, message: str = "", **more: str) -> Answer:
        """As S3 says it."""
        inner = "".join(f"<{k}>{v}</{k}>" for k, v in more.items())
        body = f"<Error><Code>{code}</Code><Message>{message}</Message>{inner}</Error>"
        return Answer(status, {}, body)


class S3:
    """The server, while it runs."""

    def __init__(self) -> None:
        self.requests: list[Asked] = []
        self.answer: Callable[[Asked], Answer | None] = lambda asked: None
        """What to answer in place of moto, None for what moto answers."""
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._application, threaded=True, request_handler=_Handler
        )
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        """The endpoint."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def _s3(self) -> Any:
        return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    @property
    def _iam(self) -> Any:
        return iam_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def bucket(self, name: str, region: str = "us-east-1") -> None:
        """Makes a bucket."""
        self._s3.create_bucket(name, region)

    def put(
        self,
        bucket: str,
        key: str,
        content: bytes,
        checksum: tuple[str, str] | None = None,
        checksum_type: str = "FULL_OBJECT",
    ) -> None:
        """Stores an object. `checksum`: the algorithm's name and the digest in base64, as uploads bring it."""
        stored = self._s3.put_object(bucket, key, content)
        if checksum is not None:
            stored.checksum_algorithm, stored.checksum_value = checksum
            stored.checksum_type = checksum_type
            stored.checksum_parts = 2

    def open_to_all(self, bucket: str) -> None:
        """Lets everybody read a bucket and what is in it by now; moto refuses requests without credentials else."""
        everybody = get_canned_acl("public-read")
        found = self._s3.get_bucket(bucket)
        found.set_acl(everybody)
        for key in found.keys.values():
            key.set_acl(everybody)

    def user(self, name: str = "reader") -> tuple[str, str]:
        """Makes a user that may do anything with S3: the access key and the secret one."""
        self._iam.create_user("us-east-1", name)
        self._iam.put_user_policy(name, "all", json.dumps(_ALL))
        key = self._iam.create_access_key(name)
        return key.access_key_id, key.secret_access_key

    def role(self, name: str) -> str:
        """Makes a role that may do anything with S3: its ARN."""
        role = self._iam.create_role(name, json.dumps(_ALL), "/", None, "", [], None)
        self._iam.put_role_policy(name, "all", json.dumps(_ALL))
        arn: str = role.arn
        return arn

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Checks signatures and permissions, as S3 does; moto does not by default."""
        before = settings.INITIAL_NO_AUTH_ACTION_COUNT
        settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        ActionAuthenticatorMixin.request_count = 0
        try:
            yield
        finally:
            settings.INITIAL_NO_AUTH_ACTION_COUNT = before

    def close(self) -> None:
        """Ends it, and forgets all buckets and users."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        moto_api_backend.reset()

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        headers = {
            key.removeprefix("HTTP_").replace("_", "-").lower(): str(value)
            for key, value in environ.items()
            if key.startswith("HTTP_")
        }
        asked = Asked(environ["REQUEST_METHOD"], environ["RAW_URI"], headers)
        self.requests.append(asked)
        answer = self.answer(asked)
        if answer is None:
            reply: Iterable[bytes] = self._moto(environ, start_response)
            return reply
        body = b"" if asked.method == "HEAD" else answer.body.encode()
        lines = [*answer.headers.items(), ("Content-Length", str(len(body)))]
        start_response(f"{answer.status} Said", lines)
        return [body]


class _Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: object) -> None:
        """Tests look at `requests`."""

    def log(self, *_: object) -> None:
        """Errors of moto are responses."""


@contextlib.contextmanager
def s3() -> Iterator[S3]:
    """Runs moto. In this process: one at a time."""
    server = S3()
    try:
        yield server
    finally:
        server.close()


def clear_environment(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Leaves no credentials and no configuration of AWS to be found, but what is put into `home`."""
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def give_credentials(
    monkeypatch: pytest.MonkeyPatch, key: str = "AKIATEST", secret: str = "secret"
) -> None:
    """Puts them into the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def write_profile(home: Path, credentials: Mapping[str, str], config: str = "") -> None:
    """Writes ~/.aws: the credentials of a profile "work", and the configuration."""
    folder = home / ".aws"
    folder.mkdir(exist_ok=True)
    lines = [f"{key} = {value}" for key, value in credentials.items()]
    (folder / "credentials").write_text("\n".join(["[work]", *lines]))
    (folder / "config").write_text(config)
