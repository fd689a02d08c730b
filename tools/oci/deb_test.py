"""Debian packages and bytecode as entries of a layer."""

import importlib.util
import io
import marshal
import sys
import tarfile
from pathlib import Path

import pytest

from tools.oci import bytecode, deb
from tools.oci.archive import Layer, LayerError, content

CONTROL = b"Package: libtest\nVersion: 1:2.0-1\nArchitecture: all\nDescription: a test\n more\n"


def archive(entries: dict[str, tuple[bytes, int, str | bytes]], form: str = "w:xz") -> bytes:
    """A tar archive of path -> (type, mode, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=form) as tar:  # type: ignore[call-overload]  # a mode of several
        for path, (kind, mode, what) in entries.items():
            info = tarfile.TarInfo(path)
            info.type, info.mode, info.uid, info.uname, info.mtime = (
                kind,
                mode,
                1000,
                "builder",
                12345,
            )
            if isinstance(what, str):
                info.linkname = what
                tar.addfile(info)
            else:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
    return out.getvalue()


def package(path: Path, data: bytes, name: str = "data.tar.xz") -> Path:
    """A .deb around an archive of files."""
    control = archive({"./control": (tarfile.REGTYPE, 0o644, CONTROL)})
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", control), (name, data)]
    out = b"!<arch>\n"
    for member, body in members:
        head = f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        out += head + body + b"\n" * (len(body) % 2)
    path.write_bytes(out)
    return path


FILES: dict[str, tuple[bytes, int, str | bytes]] = {
    "./": (tarfile.DIRTYPE, 0o755, ""),
    "./lib/": (tarfile.DIRTYPE, 0o755, ""),
    "./lib/libtest.so.1": (tarfile.REGTYPE, 0o644, b"library"),
    "./bin": (tarfile.SYMTYPE, 0o777, "usr/bin"),
    "./usr/bin/tool": (tarfile.REGTYPE, 0o4755, b"tool"),
    "./usr/bin/again": (tarfile.LNKTYPE, 0o4755, "./usr/bin/tool"),
    "./usr/lib/libtest.so": (tarfile.SYMTYPE, 0o777, "libtest.so.1"),
    "./var/mail": (tarfile.DIRTYPE, 0o2775, ""),
    "./usr/share/doc/libtest/copyright": (tarfile.REGTYPE, 0o644, b"licence"),
    "./usr/share/doc/libtest/changelog.gz": (tarfile.REGTYPE, 0o644, b"history"),
    "./usr/share/man/man1/tool.1": (tarfile.REGTYPE, 0o644, b"manual"),
}


def test_files_links_and_modes(tmp_path: Path) -> None:
    layer = Layer()
    deb.add(layer, package(tmp_path / "libtest_all.deb", archive(FILES)), ["*/again"])
    entries = layer.entries
    assert entries.keys() == {
        "usr/lib",
        "usr/lib/libtest.so.1",
        "bin",
        "usr/bin/tool",
        "usr/lib/libtest.so",
        "var/mail",
        "usr/share/doc/libtest/copyright",
        "var/lib/dpkg/status.d/libtest",
    }
    assert entries["usr/lib/libtest.so"].link == "libtest.so.1"
    assert entries["bin"].link == "usr/bin"
    assert (entries["usr/bin/tool"].mode, entries["var/mail"].mode) == (0o755, 0o775)
    assert {entry.owner for entry in entries.values()} == {0}
    assert entries["var/lib/dpkg/status.d/libtest"].open().read() == CONTROL


def test_a_hard_link_is_the_file(tmp_path: Path) -> None:
    layer = Layer()
    deb.add(layer, package(tmp_path / "a.deb", archive(FILES)))
    assert layer.entries["usr/bin/again"].open().read() == b"tool"


def test_a_field_of_the_control_file() -> None:
    assert deb.field(CONTROL.decode(), "Version") == "1:2.0-1"
    with pytest.raises(LayerError, match="no field Homepage"):
        deb.field(CONTROL.decode(), "Homepage")


def test_a_file_that_is_no_package(tmp_path: Path) -> None:
    (tmp_path / "a.deb").write_bytes(b"<html>")
    with pytest.raises(LayerError, match=r"a.deb is no Debian package: expected it to start with"):
        deb.add(Layer(), tmp_path / "a.deb")
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n")
    with pytest.raises(LayerError, match=r"expected control.tar and data.tar in it"):
        deb.add(Layer(), tmp_path / "a.deb")


def test_zstd_and_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerError, match=r"data.tar.zst is compressed with zstd, .* expected xz"):
        deb.add(Layer(), package(tmp_path / "a.deb", b"", "data.tar.zst"))
    device = archive({"./dev/null": (tarfile.CHRTYPE, 0o666, "")})
    with pytest.raises(LayerError, match="dev/null is neither file, folder nor link"):
        deb.add(Layer(), package(tmp_path / "a.deb", device))


VERSION = "{}.{}".format(*sys.version_info)


def test_bytecode_lies_where_the_interpreter_looks_for_it() -> None:
    source = b"def f(x):\n    return x + 1\n"
    layer = Layer()
    layer.add("opt/a/module.py", content(source))
    layer.add("opt/a/template.py", content(b"{% not python %}"))
    layer.add("opt/a/ready.py", content(source))
    ready = bytecode.cached("opt/a/ready.py")
    layer.add(ready, content(b"as it was"))
    bytecode.add(layer, VERSION)
    target = bytecode.cached("opt/a/module.py")
    assert "/" + target == importlib.util.cache_from_source("/opt/a/module.py")
    code = layer.entries[target].open().read()
    assert code[:4] == importlib.util.MAGIC_NUMBER
    assert code[4:8] == b"\1\0\0\0"
    assert code[8:16] == importlib.util.source_hash(source)
    assert marshal.loads(code[16:]).co_filename == "/opt/a/module.py"
    assert layer.entries[ready].open().read() == b"as it was"
    assert bytecode.cached("opt/a/template.py") not in layer.entries
    assert bytecode.cached("top.py").startswith("__pycache__/top.")


def test_bytecode_of_another_version_is_refused() -> None:
    with pytest.raises(LayerError, match=r"bytecode for Python 2.7 cannot be made by this Python"):
        bytecode.add(Layer(), "2.7")
