"""Tokens of Google Cloud: Application Default Credentials, as Google's tools find them.

google-auth makes tokens out of the files that it knows (service accounts, gcloud's user, workload identity). The
metadata server of Google's machines is asked here: google-auth asks it three times for three seconds each, and needs
`requests` for it, while on a machine that has none nobody should wait.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from zml.errors import AccessError, UnsupportedError, UsageError
from zml.vfs.client import HttpClient

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_only",)
_TOKEN = "/computeMetadata/v1/instance/service-accounts/default/token"
_PROBE_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
# Tokens are taken anew so long before they expire: a metadata server gives the same one until 5 minutes before.
_MARGIN_SECONDS = 240.0
_RENEWAL_SECONDS = 2.0
# How a file's "type" is read.
_KINDS = {
    "service_account": ("google.oauth2.service_account", "from_service_account_info"),
    "authorized_user": ("google.oauth2.credentials", "from_authorized_user_info"),
    "impersonated_service_account": (
        "google.auth.impersonated_credentials",
        "from_impersonated_service_account_info",
    ),
    "external_account_authorized_user": (
        "google.auth.external_account_authorized_user",
        "from_info",
    ),
    "external_account": ("google.auth.identity_pool", "from_info"),
    # Two kinds that a file of the type "external_account" may be.
    "aws": ("google.auth.aws", "from_info"),
    "executable": ("google.auth.pluggable", "from_info"),
}


class Tokens(Protocol):
    """Where tokens come from."""

    whose: str
    """For errors."""

    def headers(self, renew: bool = False) -> Mapping[str, str]:
        """What authorizes a request. `renew`: the last token was refused."""


class Anonymous:
    """Nobody."""

    def __init__(self, why: str) -> None:
        self.whose = f"requests without credentials ({why})"

    def headers(self, renew: bool = False) -> Mapping[str, str]:
        """None."""
        return {}


class FileTokens:
    """Those that google-auth gets for a file of credentials."""

    def __init__(self, path: Path, client: HttpClient) -> None:
        """Raises UsageError for a file that is none, UnsupportedError without google-auth."""
        self.whose = f"the credentials in {path}"
        self._path, self._client = path, client
        self._lock = threading.Lock()
        self._renewed = -_RENEWAL_SECONDS
        try:
            info = json.loads(path.read_bytes())
            kind = info["type"]
            module, constructor = _KINDS[_kind(info)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{path}: not a file of Google credentials: {type(error).__name__}: {error}; expected JSON whose type "
                f"is one of {', '.join(list(_KINDS)[:-2])} (GOOGLE_APPLICATION_CREDENTIALS names the file)"
            ) from error
        try:
            make = getattr(importlib.import_module(module).Credentials, constructor)
            from google.auth.credentials import with_scopes_if_required
            from google.auth.exceptions import GoogleAuthError
        except ImportError as error:
            raise UnsupportedError(
                f"{path}: credentials of the type {kind} need the package google-auth: pip install google-auth"
            ) from error
        try:
            # Scopes are for accounts of services; a user's file has those that the user agreed to.
            credentials: Any = with_scopes_if_required(make(info), list(_SCOPES))
            if hasattr(credentials, "with_quota_project_from_environment"):
                credentials = credentials.with_quota_project_from_environment()
        except (ValueError, TypeError, GoogleAuthError) as error:
            raise UsageError(f"{path}: these Google credentials cannot be used: {error}") from error
        self._credentials = credentials

    def headers(self, renew: bool = False) -> Mapping[str, str]:
        """With a token that is valid for some minutes more."""
        from google.auth.exceptions import GoogleAuthError

        result: dict[str, str] = {}
        with self._lock:
            again = renew and time.monotonic() - self._renewed >= _RENEWAL_SECONDS
            if again or not self._credentials.valid:
                try:
                    self._credentials.refresh(self._request)
                except GoogleAuthError as error:
                    raise AccessError(
                        f"{self._path}: no token for Google Cloud Storage could be had: {error.args[:1]}; "
                        "log in again (gcloud auth application-default login), or give another file in "
                        "GOOGLE_APPLICATION_CREDENTIALS"
                    ) from error
                self._renewed = time.monotonic()
            self._credentials.apply(result)
        return result

    def _request(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> _Reply:
        """A transport of google-auth's."""
        sent = body.encode() if isinstance(body, str) else body or b""
        response = self._client.request(
            method, url, headers or {}, sent, what=self.whose, accept=range(400, 500)
        )
        return _Reply(response.status, response.headers, response.body)


class _Reply:
    def __init__(self, status: int, headers: Mapping[str, str], data: bytes) -> None:
        self.status, self.headers, self.data = status, headers, data


class MetadataTokens:
    """Those of the account that a machine of Google's runs as."""

    def __init__(self, host: str) -> None:
        self.whose = "the service account of this machine"
        self._host = host
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}
        self._asked = -_RENEWAL_SECONDS
        self._until = 0.0

    @staticmethod
    def found() -> MetadataTokens | None:
        """None on machines of others, and where the machine has no account."""
        if os.environ.get("NO_GCE_CHECK", "").lower() == "true":
            return None
        # By address: looking a name up may take long where there is none.
        host = os.environ.get("GCE_METADATA_HOST") or os.environ.get(
            "GCE_METADATA_IP", "169.254.169.254"
        )
        found = MetadataTokens(host)
        try:
            status, google, _ = _ask(host, "/", _PROBE_SECONDS)
            return found if status == 200 and google and found._fetch() == 200 else None
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return None

    def headers(self, renew: bool = False) -> Mapping[str, str]:
        """With a token that is valid for some minutes more."""
        with self._lock:
            again = renew and time.monotonic() - self._asked >= _RENEWAL_SECONDS
            if again or time.monotonic() >= self._until:
                try:
                    status = self._fetch()
                except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                    raise self._failure(f"{type(error).__name__}: {error}") from error
                if status != 200:
                    raise self._failure(f"it answered {status}")
            return self._headers

    def _fetch(self) -> int:
        """Asks for a token: the status."""
        status, _, body = _ask(self._host, _TOKEN, _ANSWER_SECONDS)
        if status == 200:
            said = json.loads(body)
            self._headers = {"Authorization": f"Bearer {said['access_token']}"}
            project = os.environ.get("GOOGLE_CLOUD_QUOTA_PROJECT")
            if project:
                self._headers["x-goog-user-project"] = project
            self._asked = time.monotonic()
            self._until = self._asked + max(0.0, float(said["expires_in"]) - _MARGIN_SECONDS)
        return status

    def _failure(self, why: str) -> AccessError:
        return AccessError(
            f"no token for Google Cloud Storage could be had from the metadata server {self._host}: {why}"
        )


def tokens(client: HttpClient, emulated: bool) -> Tokens:
    """Those that are found first: the file that GOOGLE_APPLICATION_CREDENTIALS names, gcloud's, the metadata server.

    `emulated`: only a file that is named, since an emulator should not get a token that is worth something.
    """
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return FileTokens(Path(os.path.expanduser(named)), client)  # noqa: PTH111  # there may be no home
    if emulated:
        return Anonymous("STORAGE_EMULATOR_HOST is set")
    folder = os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud"
    path = Path(os.path.expanduser(folder)) / "application_default_credentials.json"  # noqa: PTH111
    if path.is_file():
        return FileTokens(path, client)
    return MetadataTokens.found() or Anonymous(
        f"none were found in GOOGLE_APPLICATION_CREDENTIALS, in {path}, nor from a metadata server"
    )


def _kind(info: Mapping[str, Any]) -> str:
    if info["type"] == "external_account":
        if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
            return "aws"
        if "executable" in info.get("credential_source", {}):
            return "executable"
    return str(info["type"])


def _ask(host: str, path: str, timeout: float) -> tuple[int, bool, bytes]:
    """The status, whether it is Google's server, and the body. Past all proxies."""
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Metadata-Flavor": "Google"})
        response = connection.getresponse()
        google = response.headers.get("Metadata-Flavor") == "Google"
        return response.status, google, response.read(1 << 20)
    finally:
        connection.close()
