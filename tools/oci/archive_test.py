"""Layers: what is written, and that it is the same everywhere."""

import gzip
import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import pytest

from tools.oci import compress, layer
from tools.oci.archive import Layer, LayerError, content, file, folder, link


def sample() -> Layer:
    """Every kind of entry; a long name and one outside ASCII need PAX headers."""
    result = Layer()
    result.add("usr/bin/program", content(b"#!/bin/sh\n" * 1000, 0o6755))
    result.add("lib", link("usr/lib"))
    result.add("tmp", folder(0o1777))
    result.add("home/user", folder(0o700, 65532))
    result.add("a/" + "long/" * 30 + "name", content(b"deep"))
    result.add("a/naïve", content(bytes(range(256)) * 50))
    return result


def written(one: Layer, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    one.write(out, zipped)
    return out.getvalue()


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


# The digests are part of the test: another Python or zlib that gives other bytes is found here.
def test_the_bytes_are_these() -> None:
    plain, zipped = written(sample(), False), written(sample())
    assert gzip.decompress(zipped) == plain
    assert (
        hashlib.sha256(plain).hexdigest()
        == "55735c635511495dd49ff85c4619a303c6e876d44f823aaedd834757d5adcfb3"
    )
    assert (
        hashlib.sha256(zipped).hexdigest()
        == "a18b9aa6d7d62c2f7bc135809a8047ead37453ff1bcf2e7598d34a5a333105a6"
    )


def test_this_python_compresses_as_zlib_does() -> None:
    assert compress.is_reference()


def test_an_entry_has_nothing_of_this_machine() -> None:
    for info in members(written(sample())):
        assert (info.mtime, info.uname, info.gname) == (0, "", "")
        assert info.uid == info.gid == (65532 if info.name == "home/user" else 0)
        assert not info.mode & 0o6000
        assert not info.pax_headers.keys() - {"path", "linkpath"}


def test_folders_are_complete_and_come_first() -> None:
    infos = members(written(sample()))
    names = [info.name for info in infos]
    assert names == sorted(names, key=lambda name: name.split("/"))
    kinds = {info.name: info for info in infos}
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or (kinds[parent].isdir() and names.index(parent) < names.index(name))
    assert kinds["tmp"].mode == 0o1777
    assert kinds["usr/bin"].mode == 0o755


def test_the_gzip_header_has_no_time_name_or_system() -> None:
    assert written(sample())[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_the_end_of_a_large_gzip_file() -> None:
    out = io.BytesIO()
    writer = compress.GzipWriter(out)
    for _ in range(100):
        writer.write(b"abc" * 1000)
    writer.close()
    assert gzip.decompress(out.getvalue()) == b"abc" * 100000
    assert int.from_bytes(out.getvalue()[-8:-4], "little") == zlib.crc32(b"abc" * 100000)


def test_the_order_of_adding_is_no_matter() -> None:
    reverse = Layer()
    for path, entry in reversed(sample().entries.items()):
        reverse.add(path, entry)
    assert written(reverse) == written(sample())


def test_the_same_file_twice_is_one() -> None:
    one = Layer()
    one.add("a/file", content(b"same"))
    one.add("a/file", content(b"same"))
    assert len(members(written(one))) == 2


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a/file", "a/file is in the layer twice: from one and from two, and they differ"),
        ("lib/file", "lies below lib, which is no folder: give the path that the link leads to"),
        ("/absolute", "expected one relative to the root"),
        ("a/../file", "expected one relative to the root"),
        ("a/.wh.file", "a name with .wh. deletes files in an image"),
    ],
)
def test_a_wrong_path(path: str, message: str) -> None:
    one = Layer()
    one.add("lib", link("usr/lib"))
    one.add("a/file", content(b"one", source="one"))
    with pytest.raises(LayerError, match=message):
        one.add(path, content(b"two", source="two"))
        written(one)


def test_a_file_is_read_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    one = Layer()
    one.add("file", file(path))
    with tarfile.open(fileobj=io.BytesIO(written(one))) as archive:
        got = archive.extractfile("file")
        assert got is not None
        assert got.read() == b"content"


def build(lines: list[str]) -> dict[str, bytes]:
    found = {}
    for path, entry in layer.build(lines).entries.items():
        with entry.open() as source:
            found[path] = source.read()
    return found


def test_a_list_of_files_and_folders(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "lib").mkdir(parents=True)
    (tree / "lib/liba.so").write_bytes(b"a")
    (tree / "lib/libb.so").write_bytes(b"b")
    (tree / "bin").mkdir()
    (tree / "bin/tool").write_bytes(b"ELF")
    (tree / "run").write_bytes(b"#!/bin/sh")
    (tree / "lib/link.so").symlink_to(tree / "lib/liba.so")
    line = f"file\t{tree}\topt/tree"
    whole = layer.build([line])
    assert {path: oct(entry.mode) for path, entry in whole.entries.items()} == {
        "opt/tree/bin/tool": "0o755",
        "opt/tree/lib/liba.so": "0o644",
        "opt/tree/lib/libb.so": "0o644",
        "opt/tree/lib/link.so": "0o644",
        "opt/tree/run": "0o755",
    }
    assert build([line, "only\t*/lib/*", "exclude\t*/libb.so"]) == {
        "opt/tree/lib/liba.so": b"a",
        "opt/tree/lib/link.so": b"a",
    }
    (tree / "lib/liba.so").chmod(0o755)
    assert layer.build([line]).entries["opt/tree/lib/liba.so"].mode == 0o644


def test_a_list_of_texts_folders_and_links() -> None:
    made = layer.build(
        ["text\tetc/a\t600\tone\\ntwo\\n", "folder\tcache\t700\t5", "link\tb\ta"]
    ).entries
    assert made["etc/a"].open().read() == b"one\ntwo\n"
    assert (made["etc/a"].mode, made["cache"].mode, made["cache"].owner) == (0o600, 0o700, 5)
    assert made["b"].link == "a"


def test_certificates_are_one_file(tmp_path: Path) -> None:
    lines = []
    for name in ("b", "a"):
        (tmp_path / name).write_text(f"{name}\n\n")
        lines.append(f"file\t{tmp_path / name}\tusr/share/ca-certificates/mozilla/{name}.crt")
    assert build([*lines, "certificates\tetc/all.crt"])["etc/all.crt"] == b"a\nb\n"
    with pytest.raises(LayerError, match="no certificates: expected the package ca-certificates"):
        build(["certificates\tetc/all.crt"])


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text("folder\tcache\t700\t5\n")
    assert layer.main([str(tmp_path / "list"), str(tmp_path / "layer.tar.gz")]) == 0
    assert layer.main([str(tmp_path / "list"), str(tmp_path / "layer.tar")]) == 0
    zipped, plain = ((tmp_path / name).read_bytes() for name in ("layer.tar.gz", "layer.tar"))
    assert gzip.decompress(zipped) == plain
    (tmp_path / "list").write_text("fold\tcache\n")
    assert layer.main([str(tmp_path / "list"), str(tmp_path / "layer.tar")]) == 1
    assert capsys.readouterr().err == "layer: unknown instruction 'fold' with 1 words: ['cache']\n"


def test_another_zlib_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "is_reference", lambda: False)
    (tmp_path / "list").write_text("")
    assert layer.main([str(tmp_path / "list"), str(tmp_path / "layer.tar.gz")]) == 0
    assert "its digest differs from that of other machines" in capsys.readouterr().err
    assert (tmp_path / "layer.tar.gz").stat().st_size > 0
