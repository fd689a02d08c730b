"""The schemes that come with zml, one line each. What they need is imported when the first URL of one is met."""

from __future__ import annotations

from importlib import import_module

from zml.vfs.base import FileSystem, Options
from zml.vfs.vfs import Factory


def _in(module: str, name: str) -> Factory:
    def make(options: Options) -> FileSystem:
        system: FileSystem = getattr(import_module(module), name)(options)
        return system

    return make


SCHEMES: dict[str, Factory] = {
    "file": _in("zml.vfs.file", "LocalFileSystem"),
    "http": _in("zml.vfs.http", "HttpFileSystem"),
    "https": _in("zml.vfs.http", "HttpFileSystem"),
    "s3": _in("zml.vfs.s3", "S3FileSystem"),
    "gs": _in("zml.vfs.gs", "GcsFileSystem"),
    "hf": _in("zml.vfs.hf", "HubFileSystem"),
}
