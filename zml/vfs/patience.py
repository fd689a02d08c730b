"""How long a read is tried again: full jitter between the tries, and one error where nothing arrives for too long."""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Mapping

from zml.errors import ReadError
from zml.vfs.base import Cancellation, Options
from zml.vfs.urls import redacted

_LEAST = 0.05
# As the hub of Hugging Face says it, in place of Retry-After: "api";r=0;t=55.
_RATE_LIMIT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,9})")


class TryAgainError(Exception):
    """A try failed in a way that another one may mend. Never leaves zml.vfs."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Patience:
    """What is left of the deadline of one read. Any progress begins it anew."""

    def __init__(
        self, options: Options, what: str, cancellation: Cancellation | None = None
    ) -> None:
        self.cancellation = cancellation or Cancellation()
        self.what = redacted(what)
        self._options = options
        self._since = time.monotonic()
        self._tries = 0

    @property
    def left(self) -> float:
        """Seconds that a try may take; never quite none."""
        return max(_LEAST, self._since + self._options.deadline - time.monotonic())

    def progress(self) -> None:
        """Bytes arrived."""
        self._since = time.monotonic()
        self._tries = 0

    def forgive(self, seconds: float) -> None:
        """Leaves out time that was spent behind other reads of the same host."""
        self._since += seconds

    def again(self, failure: TryAgainError) -> None:
        """Waits before another try. Raises ReadError once there is no time for one, and CancelledError."""
        self.cancellation.check()
        self._tries += 1
        now = time.monotonic()
        left = self._since + self._options.deadline - now
        doubled = self._options.backoff * 2.0 ** min(self._tries - 1, 30)
        wait = random.uniform(0, min(doubled, self._options.backoff_limit))
        if failure.retry_after is not None:
            wait = failure.retry_after + random.uniform(0, self._options.backoff)
            if failure.retry_after >= left:
                raise self._given_up(failure, f"; it asks to wait {failure.retry_after:.0f} s")
        if left <= _LEAST:
            raise self._given_up(failure)
        self.cancellation.wait(min(wait, left))

    def _given_up(self, failure: TryAgainError, more: str = "") -> ReadError:
        tries = "1 try" if self._tries == 1 else f"{self._tries} tries"
        error = ReadError(
            f"{self.what}: cannot be read: {redacted(failure.reason)}{more}. Given up after {tries} in "
            f"{time.monotonic() - self._since:.1f} s without a byte (the deadline is {self._options.deadline:g} s): "
            "is the server up, and can it be reached from here?"
        )
        error.__cause__ = failure.__cause__
        return error


def retry_after(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for, a number or a date; None for none, or nonsense."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, when.timestamp() - time.time())


def asked_to_wait(headers: Mapping[str, str]) -> float | None:
    """The seconds that an answer's headers ask for: Retry-After, or a RateLimit of which nothing remains."""
    wait = retry_after(headers.get("retry-after"))
    limit = _RATE_LIMIT.search(headers.get("ratelimit", ""))
    return float(limit[1]) if wait is None and limit else wait
