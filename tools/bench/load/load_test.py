"""The benchmark measures what it says, and reports what was measured. Speed is for no test."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench import environment
from tools.bench.load import cases, report
from tools.bench.load.cases import Case, Contender
from tools.bench.load.main import main
from tools.bench.load.peers import files


def _contender(name: str, seconds: list[float], **more: float) -> Contender:
    made = Contender(name, "none", {})
    made.samples = [{"seconds": s, "bytes": 2e9, "other_cpu": 0.0, **more} for s in seconds]
    return made


def test_figures_are_medians_held_against_the_best_limit() -> None:
    zml = _contender("zml", [1.0, 4.0, 2.0], bytes_read=3.0, bytes_needed=2.0)
    peer = _contender("safetensors", [8.0, 3.0, 5.0])
    limits = [_contender("1 readers", [9.0]), _contender("2 readers", [1.0])]
    case = Case("cold", "what", limits, [zml, peer])
    found = report.figures(case, zml)
    assert found["seconds"] == 2.0 and found["gb_per_second"] == 1.0
    assert found["of_limit"] == 0.5 and found["read_over_needed"] == 1.5
    assert report.ratios(case) == {"safetensors": 2.5}
    table = report.table([case])
    assert "limit, 2 readers" in table and "zml / safetensors: 2.50" in table
    assert "1 readers" not in table.replace("2 readers", "")


def test_noisy_rounds_do_not_count_where_there_are_quiet_ones() -> None:
    zml = _contender("zml", [1.0, 5.0])
    zml.samples[1]["other_cpu"] = 0.9
    assert zml.median("seconds") == 1.0
    zml.samples[0]["other_cpu"] = 0.9
    assert zml.median("seconds") == 3.0


def test_a_contender_that_fails_says_why_and_is_not_tried_again() -> None:
    broken = Contender("x", "tools.bench.load.peers.raw", {"files": ["/none"], "cached": True})
    broken.measure()
    assert broken.problem is not None and "/none" in broken.problem
    broken.module = "no.such.module"
    broken.measure()
    assert "/none" in broken.problem
    assert "/none" in report.table([Case("c", "w", [], [broken])])


def test_a_sparse_index_takes_no_room_and_is_whole(tmp_path: Path) -> None:
    cases.sparse_index(tmp_path, files=2, size=1 << 28, layers=4)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    for name in set(index.values()):
        path = tmp_path / name
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            data = file.tell()
        assert set(header) == {tensor for tensor, where in index.items() if where == name}
        assert path.stat().st_size == data + max(x["data_offsets"][1] for x in header.values())
        assert path.stat().st_size > 1 << 27 > path.stat().st_blocks * 512


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("readers", [1, 3])
def test_the_limit_reads_every_byte_once(readers: int, keep: bool, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100_001))
    job = {"path": str(path), "files": [str(path)], "cached": True, "size": 100_001}
    case = Contender("raw", cases.RAW, {**job, "readers": readers, "keep": keep, "block": 4096})
    case.measure()
    assert case.problem is None and case.samples[0]["bytes"] == 100_001


def test_the_share_in_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(1 << 20))
    files.prepare({"files": [str(path)], "cached": True})
    assert files.cached_share(path) == 1.0


def test_every_case_runs(tmp_path: Path) -> None:
    arguments = ["--quick", "--json", f"--work_dir={tmp_path}", "--readers=1,2"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench.load", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["cases"]
    # Where files stay in the page cache (memory file systems), what is cold cannot be measured, and the report says so.
    cold = found.pop("cold")["contenders"]
    assert set(cold) == {"1 readers", "2 readers", "4 readers, kept", "zml", "safetensors"}
    for name, case in found.items():
        for contender in case["contenders"].values():
            assert contender["problem"] is None, (name, contender["problem"])
    assert found["sharded"]["contenders"]["zml"]["read_over_needed"] == 1.0


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--only=warm", "warm is not known"),
        ("--rounds=0", "at least 1"),
        ("--readers=0", "at least 1"),
    ],
)
def test_a_wrong_flag_is_explained(
    flag: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([flag])
    assert said in capsys.readouterr().err
