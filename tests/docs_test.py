"""The commands of the README and of docs/ that run an example do run, and print text; links lead somewhere."""

import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_EXAMPLE = re.compile(
    r'^\$ (?:echo "(?P<stdin>[^"]*)" \| )?\./bazel run //examples/(?P<name>\w+)(?: -- (?P<flags>.*))?$'
)


def _commands() -> list[tuple[str, str, str]]:
    """(example, stdin, flags) of every command in the pages that runs an example."""
    found = []
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            if match := _EXAMPLE.match(line.split("   #")[0].rstrip()):
                found.append((match["name"], match["stdin"] or "", match["flags"] or ""))
    return sorted(set(found))


def test_the_pages_hold_commands() -> None:
    assert len(_commands()) >= 9
    assert {name for name, _, _ in _commands()} == {"benchmark", "io", "llm", "mnist", "sharding"}


@pytest.mark.parametrize(("name", "stdin", "flags"), _commands())
def test_command(
    name: str,
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
    flags = re.sub(
        r"[^= ]*(?:Llama-3.1-8B-Instruct|Qwen3-8B)", str(ROOT / "examples/llm/demo"), flags
    )
    main = importlib.import_module(f"examples.{name}.main").main
    assert main([name, *shlex.split(flags)]) == 0
    assert len(capsys.readouterr().out.split()) > 3


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
