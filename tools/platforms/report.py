"""Prints the sandboxes of this build, with versions and sizes, what the probes found and what would be picked.

    ./bazel run //tools/platforms --//platforms:cuda=true --//platforms:tpu=true

Nothing is loaded and no device is opened, so it answers at once on any machine.
"""

import sys
from collections.abc import Iterator

from platforms.sandbox import manifest
from zml.errors import ZmlError
from zml.pjrt import sandbox
from zml.pjrt.host import Host
from zml.pjrt.sandbox import Sandbox
from zml.platform import candidates


def report(host: Host) -> Iterator[str]:
    """The lines. Raises UsageError if ZML_SANDBOX_PATH names a folder without a sandbox."""
    found = candidates(host)
    for candidate in found:
        yield str(candidate)
        if candidate.sandbox is not None:
            yield from _describe(candidate.sandbox)
    if plugin := sandbox.find(host).get("cpu_plugin"):
        yield f"cpu_plugin: {f'incomplete: {plugin.problem}' if plugin.problem else 'usable, where it is asked for'}"
        yield from _describe(plugin)
    picked = next(candidate for candidate in found if not candidate.problem)
    yield f"Platform.auto() would try first: {picked.target}"


def _describe(runtime: Sandbox) -> Iterator[str]:
    yield f"    {runtime.source}: {runtime.root}"
    path = runtime.root / manifest.NAME
    if not path.is_file():
        yield "    no manifest: versions and size are not known"
        return
    try:
        listed = manifest.read(path)
    except manifest.ManifestError as error:
        yield f"    {error}"
        return
    yield (
        f"    {listed.size / 1e9:.2f} GB in {len(listed.files)} files for {listed.platform}, variant {listed.variant}"
    )
    for package in listed.packages:
        size = sum(file.size for file in listed.files if file.package == package.name)
        yield f"    {package.name} {package.version}: {size / 1e6:.1f} MB"


def main(argv: list[str]) -> int:
    """Prints the report on stdout; returns the exit status."""
    if len(argv) > 1:
        print(f"platforms: {argv[1]!r}: no arguments are expected", file=sys.stderr)
        return 2
    try:
        for line in report(Host()):
            print(line)
    except ZmlError as error:
        print(f"platforms: {error}", file=sys.stderr)
        return 2
    return 0
