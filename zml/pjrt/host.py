"""The machine that a program runs on, as far as it is looked at: a test gives another one."""

import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Host:
    """Where sandboxes and devices are looked for. The defaults are this machine and this process."""

    root: Path = Path("/")
    """Holds `dev` and `sys`."""
    environment: MutableMapping[str, str] = field(default_factory=lambda: os.environ)
    """Read for ZML_SANDBOX_PATH; a plugin that is loaded finds what it needs set here."""
    package: Path = Path(__file__).parent.parent.parent
    """The folder that holds the `zml` package and, in runfiles, `platforms`."""
    site: tuple[Path, ...] = field(default_factory=lambda: tuple(Path(p) for p in sys.path if p))
    """Where installed wheels are."""

    def set_missing(self, variables: Mapping[str, str]) -> None:
        """Sets environment variables that the user has not set."""
        for name, value in variables.items():
            self.environment.setdefault(name, value)
