"""The commands that the README and docs/ tell a newcomer to paste do run, and print text."""

import io
import re
import shlex
from pathlib import Path

import pytest

from examples.llm.main import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LLM = re.compile(
    r'^\$ (?:echo "(?P<stdin>[^"]*)" \| )?\./bazel run //examples/llm(?: -- (?P<flags>.*))?$'
)


def _commands() -> list[tuple[str, str]]:
    """(stdin, flags) of every llm command in the pages."""
    found = []
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            if match := _LLM.match(line.split("   #")[0].rstrip()):
                found.append((match["stdin"] or "", match["flags"] or ""))
    return sorted(set(found))


def test_the_pages_hold_commands() -> None:
    assert len(_commands()) >= 6


@pytest.mark.parametrize(("stdin", "flags"), _commands())
def test_llm_command(
    stdin: str,
    flags: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    # Where a page begins a chat, the prompt comes from here instead of the terminal.
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin or "What is a river?"))
    # The pages name models that are not here; the embedded one stands in for them.
    flags = flags.replace("/models/Llama-3.1-8B-Instruct", str(ROOT / "examples/llm/demo"))
    assert main(["llm", *shlex.split(flags)]) == 0
    assert len(capsys.readouterr().out.split()) > 3


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
