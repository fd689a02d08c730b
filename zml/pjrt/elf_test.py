"""A library is known again after what a sandbox does to it, and only then."""

import _ctypes
import shutil
from pathlib import Path

import pytest

from zml.pjrt.elf import identity

LIBRARY = Path(_ctypes.__file__)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copy(LIBRARY, tmp_path / "other_name.so"))


def test_the_name_and_what_is_appended_do_not_matter(copy: Path) -> None:
    with copy.open("ab") as file:
        file.write(b"more symbols")
    assert identity(copy) == identity(LIBRARY)


def test_other_code_is_another_library(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    start = content.index(b".text\0")  # in the table of names: a library without this section
    content[start : start + 5] = b".tex2"
    copy.write_bytes(content)
    assert identity(copy) != identity(LIBRARY)


@pytest.mark.parametrize("content", [b"", b"text", b"\x7fELF\x02\x01" + bytes(100)])
def test_what_is_no_library_goes_by_its_size(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    assert identity(path) == f"{len(content)} bytes"


def test_a_library_that_is_cut_short_goes_by_its_size(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:3000])
    assert identity(copy) == "3000 bytes"
