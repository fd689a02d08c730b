"""The repository's layout: imports go one way, private parts of JAX stay in one room, files stay readable."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Low to high: a room imports from its own row and from those before it.
ROWS = [
    {"checks", "dtypes", "errors", "log", "units"},
    {"pjrt"},
    {"buffer", "declared", "model_tree", "ops", "shape", "tensor", "tokenizer", "vfs"},
    {"compile", "io", "kernels", "sharding"},
    {"platform"},
    {"attention", "nn"},
    {"models"},
    {"llm"},
    {"testing"},
]
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}
# jaxlib has no public way to what these two offer.
PRIVATE = ("jax._src", "jaxlib.xla_client", "jaxlib._jax")
SOURCES = sorted(p for p in (ROOT / "zml").rglob("*.py") if not p.name.endswith("_test.py"))


def _imports(path: Path) -> Iterator[str]:
    """The full names that a file imports, `from zml import log` as `zml.log`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(name: str) -> str:
    return name.split(".")[1].removesuffix(".py")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)).replace("/", ".")


def test_the_sources_are_here() -> None:
    assert len(SOURCES) > 50
    rooms = {_room(_name(path)) for path in SOURCES} - {"__init__"}
    assert rooms <= HEIGHT.keys(), "a new room needs a row"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_go_one_way(path: Path) -> None:
    here = _room(_name(path))
    for name in _imports(path):
        assert not name.startswith(("examples", "tools", "tests")), f"{path} imports {name}"
        if name.startswith("zml.") and here != "__init__":
            assert HEIGHT[_room(name)] <= HEIGHT[here], (
                f"{path} imports {name}, which stands above it"
            )


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_private_parts_of_jax_stay_in_pjrt(path: Path) -> None:
    if _room(_name(path)) != "pjrt":
        private = [name for name in _imports(path) if name.startswith(PRIVATE)]
        assert not private, f"{path} imports {private}: that belongs into zml/pjrt"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_stay_readable(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 500
