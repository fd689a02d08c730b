"""The Python in docs/ runs, page by page, top to bottom, and prints what the page shows.

A ```python block is run; a ```text output block after it is what the blocks since the last one print, where `...`
stands for anything within a line. Other blocks are for reading only.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    if "\n```python\n" in page.read_text("utf-8")
)


@dataclass
class Block:
    """A fenced block: its info string, its text, the line that its text begins at, from 0."""

    info: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    inside = False
    for number, line in enumerate(page.read_text("utf-8").splitlines()):
        if not inside and line.startswith("```"):
            found.append(Block(line[3:].strip(), "", number + 1))
            inside = True
        elif inside and line.strip() == "```":
            inside = False
        elif inside:
            found[-1].text += line + "\n"
    return found


def assert_printed(expected: str, printed: str, where: str) -> None:
    """Compares line by line, where `...` in what is expected stands for anything."""
    wanted, given = (
        [x.rstrip() for x in text.rstrip().split("\n")] for text in (expected, printed)
    )
    same = len(wanted) == len(given) and all(
        re.fullmatch(re.escape(line).replace(re.escape("..."), ".*"), other)
        for line, other in zip(wanted, given, strict=True)
    )
    assert same, f"{where}: the page shows\n{expected}\nbut this is printed\n{printed}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_pages_are_here() -> None:
    names = {page.name for page in PAGES}
    assert names >= {
        "concepts.md", "first_model.md", "port_from_pytorch.md", "sharding.md", "tensors.md",
    }  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets(page: Path) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    printed = io.StringIO()
    for block in blocks(page):
        if block.info == "python":
            # With the lines above as empty ones, a traceback names the line of the page.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        elif block.info == "text output":
            assert_printed(block.text, printed.getvalue(), f"{page.name}:{block.line}")
            printed.seek(0)
            printed.truncate()
        else:
            assert "python" not in block.info and "output" not in block.info, block
    assert not printed.getvalue(), f"{page.name} does not show what its last blocks print"


def test_the_first_model_works_by_copy_and_paste(tmp_path: Path) -> None:
    page = ROOT / "docs" / "first_model.md"
    script = tmp_path / "first.py"
    script.write_text("".join(b.text for b in blocks(page) if b.info == "python"), "utf-8")
    paths = os.pathsep.join(sys.path)
    ran = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    shown = "".join(block.text for block in blocks(page) if block.info == "text output")
    assert_printed(shown, ran.stdout, page.name)
