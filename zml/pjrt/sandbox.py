"""Finds the runtimes that are here: a sandbox is a tree `{bin,lib,...}` with a PJRT plugin and all that it loads."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zml.errors import UsageError
from zml.pjrt.host import Host

TARGETS = ("tpu", "neuron", "rocm", "cuda", "cpu_plugin")
VARIABLE = "ZML_SANDBOX_PATH"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Sandbox:
    """A runtime on disk."""

    target: str
    root: Path
    """The tree; CUDA's tools are in its `bin` and `nvvm`."""
    library: Path
    """The PJRT plugin."""
    source: str
    """How it was found."""

    @property
    def complete(self) -> bool:
        """Whether the plugin is there, and all that the sandbox's manifest lists."""
        return not self.problem

    @property
    def problem(self) -> str:
        """What is missing; empty if nothing is. A file that XLA does not find here, it would take from the host."""
        if not self.library.is_file():
            return f"{self.library} is missing"
        manifest = self.root / MANIFEST
        try:
            files = json.loads(manifest.read_text("utf-8"))["files"]
            for path, size in ((self.root / file["path"], file["size"]) for file in files):
                if not path.is_file():
                    return f"{path} is missing"
                if path.stat().st_size != size:
                    return f"{path} has {path.stat().st_size} bytes, expected {size}"
        except FileNotFoundError:  # installed wheels, and trees that someone made by hand
            return ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{manifest} cannot be read: {error!r}"
        return ""


def library_name(target: str) -> str:
    """The plugin's place in a sandbox."""
    return f"lib/libpjrt_{target}.so"


def find(host: Host) -> dict[str, Sandbox]:
    """The sandbox of each target that has one, incomplete ones included.

    First come the folders in ZML_SANDBOX_PATH, each a sandbox or a folder with one per target; then the runfiles,
    `platforms/<target>/sandbox` beside the package; last the wheels that pip installed. Raises UsageError for a folder
    in ZML_SANDBOX_PATH without a sandbox: a typing error would otherwise look like a missing accelerator.
    """
    found: dict[str, Sandbox] = {}
    for sandbox in [*_named(host), *_runfiles(host), *_wheels(host)]:
        known = found.get(sandbox.target)
        if known is None or (sandbox.complete and not known.complete):
            found[sandbox.target] = sandbox
    return found


def _flat(target: str, root: Path, source: str) -> Sandbox:
    return Sandbox(target, root, root / library_name(target), source)


def _named(host: Host) -> Iterator[Sandbox]:
    for text in filter(None, host.environment.get(VARIABLE, "").split(os.pathsep)):
        # A plugin's own folder is found from its path, which must not depend on the working directory.
        root = Path(text).absolute()
        itself = [target for target in TARGETS if (root / library_name(target)).is_file()]
        below = [target for target in TARGETS if (root / target).is_dir()]
        if not itself and not below:
            problem = "has no sandbox in it" if root.is_dir() else "is not a folder"
            raise UsageError(
                f"{VARIABLE}: {text} {problem}; expected a folder with {library_name('<target>')} or with "
                f"<target>/{library_name('<target>')}, where <target> is one of {', '.join(TARGETS)}"
            )
        for target in itself:
            yield _flat(target, root, VARIABLE)
        for target in below:
            yield _flat(target, root / target, VARIABLE)


def _runfiles(host: Host) -> Iterator[Sandbox]:
    for target in TARGETS:
        root = host.package / "platforms" / target / "sandbox"
        if root.is_dir():
            yield _flat(target, root, "runfiles")


def _wheels(host: Host) -> Iterator[Sandbox]:
    """The layouts of jax-cuda13-pjrt with NVIDIA's CUDA 13 wheels beside it, of jax-rocm7-pjrt and of libtpu."""
    for site in host.site:
        cuda = site / "jax_plugins/xla_cuda13/xla_cuda_plugin.so"
        if cuda.is_file():
            yield Sandbox("cuda", site / "nvidia/cu13", cuda, "installed wheel")
        rocm = site / "jax_plugins/xla_rocm7/xla_rocm_plugin.so"
        if rocm.is_file():
            yield Sandbox("rocm", rocm.parent, rocm, "installed wheel")
        tpu = site / "libtpu/libtpu.so"
        if tpu.is_file():
            yield Sandbox("tpu", tpu.parent, tpu, "installed wheel")
