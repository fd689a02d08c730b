"""How fast weights come onto the device: from the disk, the page cache, a web server and an object store.

python -m tools.bench.load [--peer_python=PATH ...] [--rounds=3] [--only=cold,cached,...] [--json]

Every case runs beside its limit (plain O_DIRECT reads of the same file or ranged GETs of the same server, with
the best number of readers) and beside other loaders on the same file. Each measurement is a process of its own; they
take turns, round by round, and medians are reported. --peer_python names interpreters in which runai-model-streamer or
fastsafetensors are installed.
"""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.bench import child, environment
from tools.bench.command_line import cpus, names, numbers, users_path
from tools.bench.llm import checkpoint
from tools.bench.llm.checkpoint import Size
from tools.bench.llm.main import default_folder, machine
from tools.bench.load import cases, report
from tools.bench.load.cases import IMPORTS, Case
from zml.testing.servers.nginx import nginx

CASES = ("cold", "cached", "http", "s3", "first byte", "sharded")
_QUICK = Size(2, 64, 96, 4, 2, 16, 160, 256)
_SMALL = Size(2, 1024, 2048, 16, 8, 64, 8000)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = made.add_argument
    add("--peer_python", action="append", default=[], metavar="PATH", help="may be repeated")
    add("--only", type=names, default=list(CASES), help=f"of {', '.join(CASES)}")
    add("--rounds", type=int, default=3)
    add(
        "--readers",
        type=numbers,
        default=[1, 2, 4, 8],
        help="numbers of readers that the limits are tried with",
    )
    add("--devices", type=int, default=4, help="CPU devices of the sharded load")
    add("--work_dir", help="for the checkpoint, 2.2 GB")
    add("--quick", action="store_true", help="a tiny checkpoint, one round: does it work at all?")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 1 where a contender failed."""
    made = parser()
    options = made.parse_args(argv)
    if unknown := set(options.only) - set(CASES):
        made.error(
            f"--only: {', '.join(sorted(unknown))} is not known; expected {', '.join(CASES)}"
        )
    if options.rounds < 1 or min(options.readers) < 1 or options.devices < 1:
        made.error("--rounds, --readers and --devices are at least 1")
    size = _QUICK if options.quick else Size()
    folder = users_path(options.work_dir) if options.work_dir else default_folder()
    path = checkpoint.write(size, folder) / "model.safetensors"
    peers = _peers(options.peer_python)
    with contextlib.ExitStack() as stack:
        chosen = [
            case
            for name in CASES
            if name in options.only
            for case in _case(name, path, options, peers, stack)
        ]
        for number in range(1 if options.quick else options.rounds):
            for case in chosen:
                print(f"info(bench): round {number + 1}: {case.name}", file=sys.stderr, flush=True)
                for contender in case.all():
                    contender.measure()
    if options.json:
        found = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(0),
            "bytes": path.stat().st_size,
            "cases": report.as_json(chosen),
        }
        print(json.dumps(found))
    else:
        print(report.table(chosen))
    return 1 if any(x.problem for case in chosen for x in case.all()) else 0


def _peers(pythons: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"safetensors": None}
    for python in pythons:
        for name, module in IMPORTS.items():
            done = subprocess.run(
                [python, "-c", f"import {module}"],
                capture_output=True,
                env=child.peer_environment(),
            )
            if done.returncode == 0:
                found.setdefault(name, python)
    return found


def _case(
    name: str,
    path: Path,
    options: argparse.Namespace,
    peers: dict[str, str | None],
    stack: contextlib.ExitStack,
) -> list[Case]:
    size = path.stat().st_size
    if name == "cold":
        what = "not in the page cache; the limit reads with O_DIRECT"
        return [cases.local(name, what, path, False, options.readers, peers)]
    if name == "cached":
        what = "in the page cache; the limit copies into one small buffer"
        return [cases.local(name, what, path, True, options.readers, peers)]
    if name == "http":
        server = stack.enter_context(nginx(path.parent, workers=cpus()))
        raw = f"{server.url}/{path.name}"
        what = "nginx on loopback; the limit is ranged GETs into one small buffer"
        return [cases.remote(name, what, server.url, raw, size, options.readers)]
    if name == "s3":
        return list(_s3(path, options.readers, stack))
    if name == "sharded":
        return [cases.sharded(path, options.devices)]
    temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=path.parent.parent))
    return [cases.first_byte(cases.sparse_index(Path(temporary)))]


def _s3(path: Path, readers: Sequence[int], stack: contextlib.ExitStack) -> Iterator[Case]:
    """Objects of nginx, which like S3 answers GETs of /bucket/key, and does not look at signatures; and moto's."""
    server = stack.enter_context(nginx(path.parent.parent, workers=cpus()))
    bucket = path.parent.name
    what = "nginx on loopback, asked with S3's signatures"
    raw = f"{server.url}/{bucket}/{path.name}"
    yield cases.remote(
        "s3", what, f"s3://{bucket}", raw, path.stat().st_size, readers, _environment(server.url)
    )
    # moto reads the whole object for every range of it.
    temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    small = checkpoint.write(_SMALL, temporary) / path.name
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-m", "tools.bench.load.s3_server", str(small)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    )
    assert process.stdin is not None and process.stdout is not None
    stack.callback(process.stdin.close)
    url = process.stdout.readline().strip()
    if not url:
        raise RuntimeError("moto did not start")
    what = "moto on loopback, which reads the whole object for every range"
    raw = f"{url}/models/{path.name}"
    yield cases.remote(
        "s3 of moto", what, "s3://models", raw, small.stat().st_size, readers, _environment(url)
    )


def _environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
