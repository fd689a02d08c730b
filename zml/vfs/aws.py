"""What botocore knows of AWS: credentials, regions, endpoints and signatures.

Not botocore's client. It reads its model of all of S3 and sends each request through a stack of handlers; four requests
are ours to write (zml.vfs.s3), and bytes go straight into the caller's memory (zml.vfs.remote). Measured: the import
and the session take 0.15 s, a client 0.1 s more, a signature 60 us.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from zml.errors import AccessError, UnsupportedError, UsageError
from zml.vfs.connections import Origin

_TRUE = ("1", "true", "yes")
# A signature is good for 15 minutes on either side of its time; the credentials, for 10 more when they are refreshed.
_SIGNATURE_SECONDS = 60.0
# Readers whose requests were refused together renew the credentials once.
_RENEWAL_SECONDS = 2.0
_HOSTABLE = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class Signed:
    """The headers of one request, signed again only where their time has passed."""

    def __init__(
        self, aws: Aws, method: str, url: str, region: str, headers: Mapping[str, str]
    ) -> None:
        self._aws, self._request = aws, (method, url, region)
        self._given = dict(headers)
        self._lock = threading.Lock()
        self._headers: dict[str, str] = {}
        self._until = 0.0

    def headers(self, renew: bool = False) -> Mapping[str, str]:
        """To be sent. `renew`: those given before were refused, though they were right once."""
        with self._lock:
            if renew:
                self._aws.renew()
            if renew or time.monotonic() >= self._until:
                self._headers = self._aws.sign(*self._request, self._given)
                self._until = time.monotonic() + _SIGNATURE_SECONDS
            return self._headers


class Aws:
    """The configuration of the environment, and of the profile in ~/.aws. Any thread may call."""

    region: str
    """Where buckets are looked for first."""
    endpoint: str | None
    """Another service than AWS's own."""

    def __init__(self) -> None:
        """Raises UnsupportedError without botocore, UsageError for a configuration that cannot be read."""
        try:
            import botocore.exceptions
            import botocore.session
        except ImportError as error:
            raise UnsupportedError(
                "s3:// needs the package botocore: pip install botocore"
            ) from error
        self._lock = threading.Lock()
        self._found: Any = None
        self._looked = -_RENEWAL_SECONDS
        # Other SDKs have this one; botocore itself only AWS_DEFAULT_REGION.
        region = os.environ.get("AWS_REGION")
        self.unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in _TRUE
        try:
            self._session = botocore.session.Session()
            self._config: dict[str, Any] = self._session.get_scoped_config()
            self.region = region or self._session.get_config_variable("region") or "us-east-1"
            self.endpoint = self._configured_endpoint()
        except botocore.exceptions.BotoCoreError as error:
            raise UsageError(f"the configuration of AWS cannot be used: {error}") from error

    def url(self, bucket: str, region: str) -> str:
        """A bucket's URL, without "/" at its end: by virtual host, or by path where that cannot be or is not wanted.

        As botocore has it: another endpoint than AWS's is asked by path unless the profile's addressing_style is
        "virtual".
        """
        style = self._s3_config().get("addressing_style", "auto")
        if self.endpoint is None:
            base = f"https://{self._aws_host(region)}"
            by_path = style == "path" or not _HOSTABLE.fullmatch(bucket)
        else:
            base = self.endpoint.rstrip("/")
            by_path = style != "virtual"
        scheme, _, host = base.partition("://")
        return f"{base}/{bucket}" if by_path else f"{scheme}://{bucket}.{host}"

    def sign(
        self, method: str, url: str, region: str, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """The headers with the signature's. Others may be added, and "Range" is: it is not signed."""
        credentials = self._credentials()
        if credentials is None:
            return dict(headers)
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest(method, url, dict(headers))
        S3SigV4Auth(credentials, "s3", region).add_auth(request)
        return dict(request.headers.items())

    @property
    def access_key(self) -> str | None:
        """Which credentials are used: the public half of them; None for none."""
        credentials = self._credentials()
        return None if credentials is None else credentials.access_key

    def renew(self) -> None:
        """Looks for credentials again: files and servers may have newer ones."""
        with self._lock:
            if time.monotonic() - self._looked >= _RENEWAL_SECONDS:
                self._found = None

    def _credentials(self) -> Any:
        """Those to sign with, refreshed before they expire; None for none."""
        if self.unsigned:
            return None
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            try:
                if self._found is None:
                    if self._looked > 0:
                        import botocore.session

                        # A session keeps what it found first.
                        self._session = botocore.session.Session()
                    self._found = self._session.get_credentials() or False
                    self._looked = time.monotonic()
                return self._found.get_frozen_credentials() if self._found else None
            except (
                BotoCoreError,
                ClientError,
                OSError,
                RuntimeError,
                ValueError,
                KeyError,
            ) as error:
                raise AccessError(f"no credentials of AWS could be had: {error}") from error

    def _configured_endpoint(self) -> str | None:
        ignored = self._session.get_config_variable("ignore_configured_endpoint_urls")
        if str(ignored).lower() in _TRUE:
            return None
        from botocore.configprovider import ConfiguredEndpointProvider

        provider = ConfiguredEndpointProvider(self._session.full_config, self._config, "s3")
        found: str | None = provider.provide()
        if found and not re.match(r"https?://[^/]", found):
            raise UsageError(
                f"the endpoint of S3 is {found!r} (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile); "
                "expected http://host or https://host"
            )
        if found:
            Origin.of(found)
        return found

    def _s3_config(self) -> dict[str, str]:
        found = self._config.get("s3")
        return found if isinstance(found, dict) else {}

    def _aws_host(self, region: str) -> str:
        suffix = "amazonaws.com"
        for each in self._session.get_component("data_loader").load_data("partitions")[
            "partitions"
        ]:
            if re.match(each["regionRegex"], region):
                suffix = each["outputs"]["dnsSuffix"]
        fips = "-fips" if self._is_set("use_fips_endpoint") else ""
        dual = ".dualstack" if self._is_set("use_dualstack_endpoint") else ""
        return f"s3{fips}{dual}.{region}.{suffix}"

    def _is_set(self, variable: str) -> bool:
        return str(self._session.get_config_variable(variable)).lower() in _TRUE
