"""What is said of a compiling process that does not answer."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from zml.errors import CompileError
from zml.pjrt import child
from zml.pjrt.child import Answer, Kit

KIT = Kit("cuda:test", "cuda", Path("/nowhere/lib.so"), "1x1x1", {})


def said(monkeypatch: pytest.MonkeyPatch, code: str, kit: Kit = KIT) -> str:
    """The error of a compilation in a process that runs this code instead."""
    monkeypatch.setattr(child, "_PROGRAM", ("-c", code))
    with pytest.raises(CompileError) as caught:
        child.compile_module(kit, b"module", [0], True, {})
    return str(caught.value)


def test_a_crash_is_named_with_the_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "F1127 03:00:00.1 1 device.cc:12] Check failed: threads_per_warp > 0"
    trace = r"\n@ 0x7f0 abort\n*** SIGABRT ***"
    message = said(
        monkeypatch,
        f"import os, sys; sys.stderr.write('I1127 noise\\n{words}{trace}'); sys.stderr.flush(); os.abort()",
    )
    assert "crashed (SIGABRT)" in message
    assert f"it said: {words}" in message
    assert "noise" not in message and "0x7f0" not in message


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "was killed (SIGKILL), as the system does"),
        (
            "import sys; sys.exit('terminate: std::bad_alloc')",
            "ran out of memory; it said: terminate: std::bad",
        ),
        ("import sys; sys.exit(3)", "ended with exit code 3; it said nothing"),
    ],
)
def test_other_endings(monkeypatch: pytest.MonkeyPatch, code: str, expected: str) -> None:
    assert expected in said(monkeypatch, code)


def test_the_limit_is_named_where_memory_ran_out(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = replace(KIT, memory_limit=1 << 20)
    message = said(monkeypatch, "import sys; sys.exit('MemoryError')", kit)
    assert "ran out of memory (memory_limit: 1048576 bytes)" in message


def test_one_that_takes_too_long_is_ended_with_what_it_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        f"f = open({str(file)!r}, 'w'); f.write(str(p.pid)); f.close(); print('working', flush=True);"
        "time.sleep(600)"
    )
    message = said(monkeypatch, code, replace(KIT, timeout_seconds=5))
    assert "was ended after 5 s" in message and "timeout_seconds" in message
    pid = int(file.read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_what_the_child_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    # The real child, on a file that is no plugin.
    library = tmp_path / "lib.so"
    library.write_bytes(b"junk")
    with pytest.raises(CompileError, match=r"lib\.so"):
        child.ask(replace(KIT, library=library))


def test_an_answer_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import json, pathlib, sys; f = pathlib.Path(sys.argv[1]);"
        "request = json.loads((f / 'request.json').read_text());"
        "(f / 'program.bin').write_bytes(b'code' + (f / 'module.bc').read_bytes());"
        "(f / 'hlo.txt').write_text('HloModule ' + str(request['devices']));"
        "(f / 'answer.json').write_text(json.dumps({'memory': {'code': 1}, 'cost': {}, 'peak_bytes': 5}))"
    )
    monkeypatch.setattr(child, "_PROGRAM", ("-c", code))
    answer = child.compile_module(KIT, b"module", [1, 0], True, {"xla_flag": True})
    assert answer.code == b"codemodule"
    assert answer.memory == {"code": 1}
    assert Answer.unpack(answer.pack()) == answer
    with pytest.raises(ValueError, match="no compiled program"):
        Answer.unpack(b"junk")
