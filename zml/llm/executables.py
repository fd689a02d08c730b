"""A folder with the compiled programs of a model: written by tools/compile, read where there is no time to compile.

`manifest.json` says what they were compiled for; each program is a file beside it. A program is machine code: whoever
runs one trusts the folder's source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

import zml
from zml.compile import Exe
from zml.compile.compiler import differences
from zml.errors import CompileError, UsageError
from zml.model_tree import is_leaf, path_name
from zml.units import binary_size

if TYPE_CHECKING:
    from zml.llm.programs import Deployment

_MANIFEST = "manifest.json"
_FORMAT = 1
_ROOMS = ("attention", "kernels", "models", "nn", "ops")
"""Where the code is that is traced into programs, beside programs.py."""
_FLAGS = {"dtype": "--dtype", "seqlen": "--seqlen", "backend": "--backend", "weights": "--quantize"}
_MEND = "compile again with tools/compile, or leave --executables out"


@dataclass(frozen=True)
class Executables:
    """An opened folder. `load` gives its programs, once `check` has passed."""

    folder: Path
    fits: Mapping[str, str]
    """What the programs were compiled for: the model, its dtype, the context, ..."""
    platform: Mapping[str, str]
    """The traits of the platform that they run on."""
    programs: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """File, size, digest and memory plan of each."""

    @staticmethod
    def write(folder: Path, deployment: Deployment, programs: Mapping[str, Exe]) -> Executables:
        """Writes programs of a deployment; the manifest last, so that a folder with one is complete."""
        entries: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _MANIFEST).unlink(missing_ok=True)
            for name, exe in programs.items():
                blob = exe.serialize()
                (folder / f"{name}.zml").write_bytes(blob)
                entries[name] = {
                    "file": f"{name}.zml",
                    "bytes": len(blob),
                    "sha256": hashlib.sha256(blob).hexdigest(),
                    "memory": vars(exe.memory),
                }
            traits = dict(next(iter(programs.values())).traits)
            fits = facts(deployment)
            manifest = {
                "format": _FORMAT,
                "fits": fits,
                "platform": traits,
                "programs": entries,
            }
            part = folder / f"{_MANIFEST}.part"
            part.write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
            part.rename(folder / _MANIFEST)
        except OSError as error:
            raise UsageError(
                f"--output={folder}: cannot be written: {error.strerror}: {error.filename}"
            ) from error
        return Executables(folder, fits, traits, entries)

    @staticmethod
    def open(folder: Path) -> Executables:
        """Reads the manifest. Raises UsageError for a folder without one, CompileError for a damaged one."""
        path = folder / _MANIFEST
        try:
            found = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UsageError(
                f"--executables={folder}: {path} cannot be read: {error.strerror}; expected a folder that "
                "tools/compile has written"
            ) from error
        except ValueError as error:
            raise CompileError(f"{path}: not valid JSON: {error}; {_MEND}") from error
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            given = found.get("format") if isinstance(found, dict) else found
            raise CompileError(f"{path}: format {given!r:.80}, expected {_FORMAT}; {_MEND}")
        try:
            programs = {
                str(name): {"file": str(entry["file"]), "sha256": str(entry["sha256"])}
                for name, entry in found["programs"].items()
            }
            return Executables(folder, dict(found["fits"]), dict(found["platform"]), programs)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CompileError(f"{path}: damaged ({error!r}); {_MEND}") from error

    def check(self, deployment: Deployment) -> None:
        """Raises CompileError, with each difference, unless the programs are for this deployment."""
        here = facts(deployment)
        wrong = [
            f"{name}: {self.fits.get(name, 'none')}, here {value}"
            + (f" ({_FLAGS[name]})" if name in _FLAGS else "")
            for name, value in here.items()
            if self.fits.get(name) != value
        ]
        wrong += differences(self.platform, deployment.platform.client)
        if wrong:
            raise CompileError(
                f"--executables={self.folder} was compiled for something else: {'; '.join(wrong)}; {_MEND}"
            )

    def load(self, name: str, deployment: Deployment) -> Exe:
        """A program. Raises CompileError for one that is missing or damaged."""
        entry = self.programs.get(name)
        if entry is None:
            raise CompileError(
                f"{self.folder / _MANIFEST}: there is no program {name!r}, only {', '.join(self.programs)}; {_MEND}"
            )
        path = self.folder / entry["file"]
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise CompileError(f"{path}: cannot be read: {error.strerror}; {_MEND}") from error
        if hashlib.sha256(blob).hexdigest() != entry["sha256"]:
            raise CompileError(
                f"{path}: damaged: its {len(blob)} bytes do not have the digest in {_MANIFEST}; {_MEND}"
            )
        return deployment.platform.deserialize(blob)

    def __str__(self) -> str:
        lines = [f"{self.folder}:"]
        for entry in self.programs.values():
            plan = entry["memory"]
            lines.append(
                f"  {entry['file']:<18} {binary_size(entry['bytes']):>10}, temporaries "
                f"{binary_size(plan['temporaries'])}"
            )
        return "\n".join(lines)


def facts(deployment: Deployment) -> dict[str, str]:
    """What the programs of a deployment depend on beside the platform, by name."""
    return {
        "model": type(deployment.model).__name__,
        "config": _digest(repr(deployment.config)),
        "dtype": deployment.dtype.numpy.name,
        "seqlen": str(deployment.length),
        "backend": deployment.backend,
        "weights": _weights(deployment),
        "native kernels": "yes" if deployment.platform.has_kernels else "no",
        "code of zml": _code(),
    }


def _weights(deployment: Deployment) -> str:
    """Stands for name, shape, type and cut of each weight."""
    found, _ = jax.tree_util.tree_flatten_with_path(deployment.model, is_leaf=is_leaf)
    return _digest("\n".join(f"{path_name(path)} {leaf.shape}" for path, leaf in found))


@cache
def _code() -> str:
    """Stands for the code that is traced: programs of another version may compute something else."""
    root = Path(zml.__file__).parent
    files = [path for room in _ROOMS for path in (root / room).glob("**/*.py")]
    files += [*root.glob("llm/programs.py"), root / "tensor.py"]
    kept = sorted(path for path in files if not path.name.endswith("_test.py"))
    return _digest(
        "\n".join(f"{p.relative_to(root)} {_digest(p.read_text('utf-8'))}" for p in kept)
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
