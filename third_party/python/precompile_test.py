"""Bytecode that is the same on every machine."""

import importlib.util
import marshal
from pathlib import Path

from third_party.python.precompile import precompile

UNCHECKED_HASH = 1


def write_module(folder: Path) -> Path:
    source = folder / "package/module.py"
    source.parent.mkdir(parents=True)
    source.write_text("def f(x):\n    return x + 1\n")
    (folder / "template.py").write_text("{% not python %}\n")
    return Path(importlib.util.cache_from_source(str(source)))


def test_bytes_do_not_depend_on_the_place(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "a longer path/second"
    compiled = [write_module(folder) for folder in (first, second)]
    for folder in (first, second):
        precompile(folder)
    assert compiled[0].read_bytes() == compiled[1].read_bytes()


def test_bytecode_is_not_compared_with_the_source_and_names_it_relatively(tmp_path: Path) -> None:
    compiled = write_module(tmp_path)
    precompile(tmp_path)
    content = compiled.read_bytes()
    assert content[:4] == importlib.util.MAGIC_NUMBER
    assert int.from_bytes(content[4:8], "little") == UNCHECKED_HASH
    assert marshal.loads(content[16:]).co_filename == "package/module.py"


def test_a_file_that_is_not_python_is_left_alone(tmp_path: Path) -> None:
    write_module(tmp_path)
    precompile(tmp_path)
    assert list((tmp_path / "__pycache__").glob("*")) == []
