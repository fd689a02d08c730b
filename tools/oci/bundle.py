"""Prepares what `umoci unpack` makes for runc: arguments after the image's own, a read-only root, no terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_ENTRYPOINT = "zml.entrypoint"
"""Keeps the image's own words, since a bundle is run more than once."""


def prepare(config: dict[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The configuration of a run with `arguments`."""
    notes = config.setdefault("annotations", {})
    entrypoint = json.loads(notes.setdefault(_ENTRYPOINT, json.dumps(config["process"]["args"])))
    config["process"] |= {"args": [*entrypoint, *arguments], "terminal": False}
    config["root"]["readonly"] = True
    # A check needs no limits, and a machine that is a container itself may have no control groups to set.
    config["linux"].pop("resources", None)
    return config


def main(arguments: Sequence[str]) -> None:
    """bundle.py CONFIG ARGUMENT..."""
    path = Path(arguments[0])
    config = prepare(json.loads(path.read_bytes()), arguments[1:])
    path.write_text(json.dumps(config))


if __name__ == "__main__":
    main(sys.argv[1:])
