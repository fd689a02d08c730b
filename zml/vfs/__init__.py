"""Files by URL: local disks, web servers, object stores and the Hugging Face hub behind one small interface."""

from zml.vfs.base import Cancellation, Checksum, Entry, File, FileSystem, Options
from zml.vfs.folder import Folder
from zml.vfs.urls import join
from zml.vfs.vfs import Vfs

__all__ = [
    "Cancellation",
    "Checksum",
    "Entry",
    "File",
    "FileSystem",
    "Folder",
    "Options",
    "Vfs",
    "join",
]
