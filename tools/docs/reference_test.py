"""The API reference: it is up to date, and it finds names wherever they are defined."""

from pathlib import Path

import pytest

from tools.docs.reference import ROOMS, pages
from tools.docs.source import Sources, UndocumentedError

ROOT = Path(__file__).parents[2]


def test_the_committed_pages_are_those_of_the_sources() -> None:
    folder, made = ROOT / "docs" / "api", pages(ROOT)
    committed = {page.name: page.read_text("utf-8") for page in folder.glob("*.md")}
    stale = sorted(
        name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name)
    )
    assert not stale, (
        f"docs/api/{stale[0]} is not what the docstrings say; run ./bazel run //tools/docs "
        "(or python -m tools.docs) and commit docs/api"
    )


def test_every_public_name_is_there() -> None:
    made, sources = pages(ROOT), Sources(ROOT)
    for room in ROOMS:
        for name in sources.public(f"zml.{room}"):
            assert (
                f"`{name}" in made[f"{room}.md"]
                or f"class {name}" in made[f"{room}.md"]
                or (f"## zml.{room}.{name}" in made[f"{room}.md"])
            ), f"zml.{room}.{name}"


_PART = '''"""A part."""
from typing import overload

type Size = int | str
"""How large."""
LIMIT: "Size" = 3

@overload
def cut(x: int) -> int: ...
def cut(x, /, *tags: "Size", deep: bool = False, **more: "list[Size] | None") -> "Size":
    """Cuts.

    More of it.
    """

class Knife(Exception):
    """Cuts too."""

    sharp: "bool | None" = None
    """Whether it is."""
    _hidden: int = 0

    @staticmethod
    def of(x: "Literal['a']") -> "Knife":
        """Makes one."""

    @property
    def edge(self) -> Size:
        """Where it cuts."""

    def __call__(self, x: int, /) -> None:
        """Cuts once."""
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for room in ROOMS:
        (tmp_path / "zml" / room).mkdir(parents=True)
        (tmp_path / "zml" / room / "__init__.py").write_text('"""A room."""\n__all__ = []\n')
    (tmp_path / "zml" / "__init__.py").write_text(
        '"""The package."""\n_MODULES = {"Knife": "nn"}\n__all__ = ["Knife"]\n'
    )
    (tmp_path / "zml" / "nn" / "part.py").write_text(_PART)
    (tmp_path / "zml" / "nn" / "__init__.py").write_text(
        '"""Layers."""\nfrom zml.nn.part import Knife, cut, LIMIT, Size\n'
        '__all__ = ["Knife", "LIMIT", "Size", "cut"]\n'
    )
    return tmp_path


def test_what_a_page_says(root: Path) -> None:
    page = pages(root)["nn.md"]
    assert page.split("-->\n")[1] == (
        "# zml.nn\n\nLayers.\n\n"
        "- `LIMIT = 3`\n"
        "- `cut(x, /, *tags: Size, deep: bool = False, **more: list[Size] | None) -> Size`: Cuts.\n\n"
        "  More of it.\n"
        "- `Size = int | str`: How large.\n\n"
        "### `class Knife(Exception)`\n\nCuts too.\n\n"
        "- `sharp: bool | None = None`: Whether it is.\n"
        "- `Knife.of(x: Literal['a']) -> Knife`: Makes one.\n"
        "- `.edge: Size`: Where it cuts.\n"
        "- `(call)(x: int, /) -> None`: Cuts once.\n"
    )
    assert "`zml.Knife`: see [`zml.nn`](nn.md)" in pages(root)["zml.md"]


def test_what_cannot_be_described_is_named(root: Path) -> None:
    part = root / "zml" / "nn" / "part.py"
    part.write_text(_PART.replace('"""Makes one."""', "..."))
    with pytest.raises(UndocumentedError, match=r"zml\.nn\.part\.Knife\.of has no docstring"):
        pages(root)
    (root / "zml" / "nn" / "__init__.py").write_text('"""Layers."""\n__all__ = ["lost"]\n')
    (root / "zml" / "__init__.py").write_text('"""The package."""\n__all__ = []\n')
    with pytest.raises(UndocumentedError, match=r"zml\.nn has no lost, which its __all__ lists"):
        pages(root)
