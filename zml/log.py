"""Log lines in the form `info(llm): message` on stderr, so that stdout carries generated text alone."""

import logging
import sys


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return (
            f"{record.levelname.lower()}({record.name.removeprefix('zml.')}): {record.getMessage()}"
        )


def get(name: str) -> logging.Logger:
    """The logger of a part of zml (`llm`, `io`, `compile`, ...). Silent below warnings until `to_stderr` is called."""
    return logging.getLogger(f"zml.{name}")


def to_stderr(level: int = logging.INFO) -> None:
    """Sends zml's log lines to stderr. For command-line tools; a library leaves handlers to its user."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    root = logging.getLogger("zml")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
