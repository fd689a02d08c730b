"""How a load goes on: what it read, how fast, and a bar on a terminal for those that take long."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass
from typing import TextIO

from zml.units import binary_size

_PATIENCE = 1.0
_WIDTH = 30


@dataclass
class LoadReport:
    """What a load did: made by the caller, filled by `load`."""

    bytes_needed: int = 0
    """Of files, that the devices of this process have a use for: each counted once."""
    bytes_read: int = 0
    """That were asked of files: with gaps that were read over, and what was read twice."""
    seconds: float = 0.0
    first_byte_seconds: float | None = None
    """Until the first bytes were where they belong; None where there were none."""
    readers: int = 0
    """Most reads at a time."""
    files: int = 0

    @property
    def overread(self) -> float:
        """Bytes read for each that was needed."""
        return self.bytes_read / self.bytes_needed if self.bytes_needed else 1.0


class Progress:
    """Counts bytes, and draws. Any thread may count; one draws."""

    def __init__(
        self, total: int, report: LoadReport, out: TextIO | None, began: float | None = None
    ) -> None:
        """`out`: where to draw; None: nowhere. `began`: by perf_counter, when the load did; None: now."""
        self.report = report
        self._total = total
        self._out = out
        self._lock = threading.Lock()
        self._began = time.perf_counter() if began is None else began
        self._drawn = False

    def read(self, count: int) -> None:
        """So many bytes were read and are where they belong."""
        with self._lock:
            self.report.bytes_read += count
            if self.report.first_byte_seconds is None:
                self.report.first_byte_seconds = time.perf_counter() - self._began

    def draw(self) -> None:
        """The bar, once it has taken some time."""
        seconds = time.perf_counter() - self._began
        if self._out is None or seconds < _PATIENCE:
            return
        done = min(self.report.bytes_read, self._total)
        share = done / self._total if self._total else 1.0
        rate = done / seconds
        left = f"{(self._total - done) / rate:.0f}s left" if rate else "waiting"
        bar = ("=" * int(share * _WIDTH) + ">")[:_WIDTH]
        self._drawn = True
        self._write(
            f"\r\x1b[KLoading weights [{bar:<{_WIDTH}}] {share:4.0%} of {binary_size(self._total)}, "
            f"{binary_size(rate)}/s, {left}"
        )

    def clear(self) -> None:
        """Takes the bar away again."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _write(self, text: str) -> None:
        if self._out is None:
            return
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):  # the terminal is gone, which is no reason to end a load
            self._out = None


def terminal(progress: bool | None) -> TextIO | None:
    """Where a bar is drawn: on stderr if it was asked for, or if that is a terminal and nothing was said."""
    if sys.stderr is None or sys.stderr.closed:
        return None
    return sys.stderr if (sys.stderr.isatty() if progress is None else progress) else None
