"""Reading and stripping ELF files."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from platforms.sandbox import elf
from platforms.sandbox._testing import ARM, X86
from platforms.sandbox._testing import elf as make


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "libx.so.1"
    path.write_bytes(content)
    return path


def test_what_the_loader_is_told_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, make(("liba.so.1", "libc.so.6"), "libx.so.1", "$ORIGIN"))
    assert elf.read_dynamic(path) == elf.Dynamic(
        "x86_64", ("liba.so.1", "libc.so.6"), "libx.so.1", ("$ORIGIN",)
    )


@pytest.mark.parametrize("machine", [X86, ARM])
def test_debug_information_goes_and_the_rest_stays(tmp_path: Path, machine: int) -> None:
    whole = make(
        ("liba.so.1",), "libx.so.1", strings=("libb.so.2",), machine=machine, debug=b"d" * 9000
    )
    path = written(tmp_path, whole)
    before = elf.read_dynamic(path)
    elf.strip(path)
    content = path.read_bytes()
    assert len(content) < len(whole) - 9000 and b"ddd" not in content
    assert elf.read_dynamic(path) == before
    assert elf.library_names(path) >= {"liba.so.1", "libb.so.2"}
    # All that is in memory lies where it was.
    end = whole.index(b"d" * 9000)
    assert content[64:end] == whole[64:end]
    elf.strip(path)
    assert path.read_bytes() == content


def test_a_stripped_library_can_be_loaded(tmp_path: Path) -> None:
    import _ctypes

    path = tmp_path / "library.so"
    shutil.copyfile(_ctypes.__file__, path)
    elf.strip(path)
    probe = "import ctypes, sys; ctypes.PyDLL(sys.argv[1]).PyInit__ctypes"
    subprocess.run([sys.executable, "-c", probe, str(path)], check=True)
    assert ctypes.sizeof(ctypes.c_void_p) == 8


def test_names_are_whole_strings_wherever_blocks_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {f"lib{'a' * length}.so.{length}" for length in range(1, 60)}
    content = b"\0".join(
        [b"", *(name.encode() for name in sorted(names)), b"xlibno.so", b"libno.so: ", b""]
    )
    path = written(tmp_path, content)
    for block in (7, 64, 129, 1 << 20):
        monkeypatch.setattr(elf, "BLOCK", block)
        assert elf.library_names(path) == names


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "is cut short"),
        (b"junk" * 100, "is not an ELF file"),
        (b"\x7fELF\x01\x01" + bytes(100), "is not a 64-bit little-endian ELF file"),
        (make(("liba.so.1",))[:120], "is cut short"),
        (make(("liba.so.1",))[:-10], "is cut short"),
    ],
)
def test_what_is_no_whole_elf_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(elf.ElfError, match=problem):
        elf.read_dynamic(path)
        elf.strip(path)
