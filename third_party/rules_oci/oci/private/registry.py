"""A client of one registry: authorization, retries, redirections."""

from __future__ import annotations

import http.client
import json
import random
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .credentials import Credentials
from .layout import OciError

_RETRIED = {408, 429, 500, 502, 503, 504}
_ATTEMPTS = 6
_PARAMETER = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class RequestError(OciError):
    """A request that the registry refused, or that came to no end."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Response:
    """An answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    url: str
    body: bytes

    @property
    def location(self) -> str:
        """Where the registry points to."""
        return urllib.parse.urljoin(self.url, self.headers.get("location", ""))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirections are followed here: urllib drops the body, and would show the token to another host."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class Registry:
    """A registry, as one user sees it. Usable from several threads."""

    def __init__(
        self,
        host: str,
        credentials: Credentials | None,
        insecure: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        local = name in {"localhost", "[::1]"} or name.startswith("127.")
        self.host = host
        self.address = ("http://" if insecure or local else "https://") + host
        self._credentials = credentials
        self._sleep = sleep
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._authorization: dict[str, str] = {}
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        scope: str,
        body: bytes | Path | None = None,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Response:
        """The answer to a request, tried again where that may help.

        Raises RequestError for a status that is neither 2xx nor in `accept`.
        """
        url = urllib.parse.urljoin(self.address, url)
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._authorized(method, url, scope, body, headers or {})
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                problem, wait = f"{reason!s}" or type(error).__name__, ""
                status = 0
            else:
                status = answer.status
                if 200 <= status < 300 or status in accept:
                    return answer
                problem, wait = _explain(answer), answer.headers.get("retry-after", "")
                if status not in _RETRIED:
                    break
            if attempt + 1 < _ATTEMPTS:
                pause = random.uniform(0, 0.5 * 2**attempt)
                self._sleep(min(float(wait), 60) if wait.isdigit() else pause)
        hint = {
            401: f"; log in with `docker login {self.host}`",
            403: f"; may this user push there? `docker login {self.host}` changes the user",
        }.get(status, "")
        raise RequestError(f"{method} {_short(url)}: {problem}{hint}", status)

    def _authorized(
        self,
        method: str,
        url: str,
        scope: str,
        body: bytes | Path | None,
        headers: Mapping[str, str],
    ) -> Response:
        """One try, with a new token if the registry wants one."""
        ours = urllib.parse.urlsplit(url).netloc == self.host
        known = self._authorization.get(scope) if ours else None
        answer = self._followed(method, url, known, body, headers)
        if answer.status != 401 or not ours:
            return answer
        with self._lock:  # many blobs meet the first challenge at once
            if self._authorization.get(scope) == known:
                renewed = self._authorize(answer.headers.get("www-authenticate", ""), scope)
                if renewed is None:
                    return answer
                self._authorization[scope] = renewed
        return self._followed(method, url, self._authorization[scope], body, headers)

    def _followed(
        self,
        method: str,
        url: str,
        authorization: str | None,
        body: bytes | Path | None,
        headers: Mapping[str, str],
    ) -> Response:
        """One try, along redirections."""
        for _ in range(8):
            ours = urllib.parse.urlsplit(url).netloc == self.host
            extra = {"Authorization": authorization} if authorization and ours else {}
            answer = self._once(method, url, body, {**headers, **extra})
            if answer.status not in {301, 302, 303, 307, 308} or not answer.location:
                return answer
            url = answer.location
        raise RequestError(f"{method} {_short(url)}: redirected in a circle")

    def _once(
        self, method: str, url: str, body: bytes | Path | None, headers: Mapping[str, str]
    ) -> Response:
        if isinstance(body, Path):
            with body.open("rb") as file:
                return self._open(
                    method, url, file, {**headers, "Content-Length": str(body.stat().st_size)}
                )
        return self._open(method, url, body, headers)

    def _open(
        self, method: str, url: str, data: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> Response:
        request = urllib.request.Request(url, data, dict(headers), method=method)
        try:
            answer = self._opener.open(request, timeout=300)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
        found = {key.lower(): value for key, value in answer.headers.items()}
        return Response(answer.status, found, url, content)

    def _authorize(self, challenge: str, scope: str) -> str | None:
        """The Authorization that answers a challenge; None where there is nothing to answer it with."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            return self._credentials.basic if self._credentials else None
        if kind.lower() != "bearer":
            return None
        said = dict(_PARAMETER.findall(rest))
        realm = urllib.parse.urljoin(self.address, said.get("realm", ""))
        query = {"service": said["service"]} if "service" in said else {}
        headers, data = {}, None
        if self._credentials and self._credentials.identity_token:
            token = self._credentials.identity_token
            form = query | {"grant_type": "refresh_token", "refresh_token": token}
            form |= {"client_id": "rules_oci", "scope": scope}
            data = urllib.parse.urlencode(form).encode()
        else:
            scopes = [("scope", part) for part in scope.split()]
            joint = "&" if "?" in realm else "?"
            realm += joint + urllib.parse.urlencode([*query.items(), *scopes])
            if self._credentials:
                headers["Authorization"] = self._credentials.basic
        answer = self._open("POST" if data else "GET", realm, data, headers)
        if answer.status in _RETRIED:
            raise ConnectionError(f"the token server answered {answer.status}")
        if answer.status != 200:
            raise RequestError(
                f"{self.host} gave no token for {scope}: {_explain(answer)}; "
                f"log in with `docker login {self.host}`",
                answer.status,
            )
        found = json.loads(answer.body)
        return "Bearer " + (found.get("token") or found["access_token"])


def _explain(answer: Response) -> str:
    """The status and what the registry says about it."""
    try:
        errors = json.loads(answer.body)["errors"]
        said = "; ".join(f"{error.get('code')}: {error.get('message', '')}" for error in errors)
    except (ValueError, KeyError, TypeError, AttributeError):
        said = answer.body.decode(errors="replace").strip()[:200]
    return f"{answer.status} {http.client.responses.get(answer.status, '')}".strip() + (
        f" ({said})" if said else ""
    )


def _short(url: str) -> str:
    """An address without its query, which may hold a signature."""
    return url.partition("?")[0]
