"""What S3 refuses, in words that say how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from zml.errors import AccessError, NotFoundError, ReadError
from zml.vfs import xml
from zml.vfs.aws import Aws
from zml.vfs.client import Response

_CREDENTIALS = "give others in the environment (AWS_ACCESS_KEY_ID ...) or AWS_PROFILE"
_RENEW = "get new ones (aws sso login, or what made them)"
# The code: what is raised, what it means, and what helps. {key}: the public half of the credentials.
_KNOWN: dict[str, tuple[type[ReadError], str]] = {
    "NoSuchBucket": (NotFoundError, "there is no bucket {bucket}{at}"),
    "NoSuchKey": (NotFoundError, "there is no such file in the bucket {bucket}"),
    "AccessDenied": (
        AccessError,
        "access is refused to {who}: it is not there, or s3:GetObject or s3:ListBucket is not allowed; {others}",
    ),
    "AllAccessDisabled": (AccessError, "all access to the bucket {bucket} is disabled"),
    "AccountProblem": (AccessError, "the account of {who} has a problem"),
    "ExpiredToken": (AccessError, f"the credentials {{key}} have expired: {_RENEW}"),
    "TokenRefreshRequired": (AccessError, f"the credentials {{key}} have expired: {_RENEW}"),
    "InvalidToken": (
        AccessError,
        "the session token does not belong to the credentials {key}: set AWS_SESSION_TOKEN to theirs, or unset it",
    ),
    "InvalidAccessKeyId": (
        AccessError,
        f"the access key {{key}} is not known{{at}}: {_CREDENTIALS}",
    ),
    "SignatureDoesNotMatch": (
        AccessError,
        f"the secret key of {{key}} is not the right one{{at}}: {_CREDENTIALS}",
    ),
    "RequestTimeTooSkewed": (
        AccessError,
        "the clock of this machine is wrong by more than 15 minutes{date}: set it",
    ),
    "InvalidObjectState": (
        AccessError,
        "it is archived (its storage class is GLACIER or DEEP_ARCHIVE): restore it first",
    ),
    "PermanentRedirect": (
        ReadError,
        "the bucket {bucket} is served elsewhere ({endpoint}): set AWS_REGION or AWS_ENDPOINT_URL_S3",
    ),
    "AuthorizationHeaderMalformed": (
        ReadError,
        "the bucket {bucket} is in another region: set AWS_REGION",
    ),
}
_ELSEWHERE = (
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
)
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId")
# Where a response has no body.
_BY_STATUS = {
    404: "NoSuchKey",
    403: "AccessDenied",
    301: "PermanentRedirect",
    307: "PermanentRedirect",
}


@dataclass(frozen=True)
class Failure:
    """A response of failure."""

    status: int
    code: str
    message: str
    region: str | None
    """Where the bucket is, if the server says."""
    endpoint: str
    date: str

    @staticmethod
    def of(response: Response) -> Failure:
        """What a response says."""
        try:
            said = xml.parse(response.body)
        except ET.ParseError:
            said = ET.Element("Error")
        return Failure(
            response.status,
            said.findtext("Code") or _BY_STATUS.get(response.status, ""),
            said.findtext("Message", ""),
            response.headers.get("x-amz-bucket-region") or said.findtext("Region"),
            said.findtext("Endpoint") or response.headers.get("location", "it does not say where"),
            response.headers.get("date", ""),
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether the bucket may be in another region."""
        return self.code in _ELSEWHERE or self.status in (301, 307)

    @property
    def is_expired(self) -> bool:
        """Whether newer credentials may help."""
        return self.code in _EXPIRED

    def error(self, url: str, bucket: str, aws: Aws) -> ReadError:
        """To be raised."""
        kind, text = _KNOWN.get(self.code, (None, "the server answered {status} {code}"))
        if kind is None:
            kind = AccessError if self.status in (401, 403) else ReadError
        key = aws.access_key
        words = text.format(
            bucket=bucket,
            at=f" at {aws.endpoint}" if aws.endpoint else "",
            key=key or "(none)",
            who=f"the credentials {key}" if key else "requests without credentials",
            others=_CREDENTIALS if key else self._none(aws),
            date=f" (the server's: {self.date})" if self.date else "",
            endpoint=self.endpoint,
            status=self.status,
            code=self.code,
        )
        said = f" [{self.code}: {self.message}]" if self.message else ""
        return kind(f"{url}: {words}{said}")

    @staticmethod
    def _none(aws: Aws) -> str:
        if aws.unsigned:
            return "AWS_NO_SIGN_REQUEST is set: unset it to have credentials looked for"
        return (
            "none were found in the environment (AWS_ACCESS_KEY_ID ...), in ~/.aws (AWS_PROFILE), nor from a metadata "
            "server: give some"
        )
