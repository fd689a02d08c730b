"""Which platforms there are to choose from, and what is in the way of each."""

from dataclasses import dataclass

from zml.pjrt import sandbox
from zml.pjrt.host import Host
from zml.pjrt.probe import probe
from zml.pjrt.sandbox import Sandbox
from zml.platform.target import Target

PREFERENCE = (Target.TPU, Target.NEURON, Target.ROCM, Target.CUDA, Target.CPU)
"""The order in which `Platform.auto` tries them."""


@dataclass(frozen=True)
class Candidate:
    """A platform and why it cannot be used; `problem` is empty if nothing is in its way as far as one can see."""

    target: Target
    sandbox: Sandbox | None
    """Its runtime; None for the CPU, whose runtime is part of jaxlib, and where there is none."""
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.target}: {self.problem or 'usable'}"


def candidates(host: Host | None = None) -> list[Candidate]:
    """All platforms, best first, without loading or opening anything. For `Platform.auto` and for tools.

    Raises UsageError if ZML_SANDBOX_PATH names a folder without a sandbox.
    """
    host = host or Host()
    found = sandbox.find(host)
    return [_candidate(target, found.get(target), host) for target in PREFERENCE]


def _candidate(target: Target, runtime: Sandbox | None, host: Host) -> Candidate:
    if target is Target.CPU:
        return Candidate(target, None)
    if runtime is None:
        return Candidate(target, None, f"not in this build (--//platforms:{target}=true adds it)")
    if not runtime.complete:
        return Candidate(target, runtime, f"incomplete: {runtime.problem}")
    looked = probe(target, host)
    if not looked.devices:
        return Candidate(target, runtime, f"present, no device ({looked.problem})")
    return Candidate(target, runtime, looked.problem)
