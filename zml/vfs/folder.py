"""Folder: some small files beside one another, at a URL."""

from __future__ import annotations

from pathlib import Path

from zml.errors import CheckpointError, NotFoundError, ReadError
from zml.vfs import urls
from zml.vfs.vfs import Vfs


class Folder:
    """A checkpoint's folder, of which whole files are read: `Folder("hf://Qwen/Qwen3-8B", vfs).read("config.json")`."""

    url: str
    vfs: Vfs

    def __init__(self, url: str | Path, vfs: Vfs | None = None) -> None:
        """`vfs` is by default one of its own, which is enough for local files."""
        self.url = str(url)
        self.vfs = vfs or Vfs()

    @staticmethod
    def of(folder: Folder | str | Path) -> Folder:
        """The same, or the folder of a path or URL."""
        return folder if isinstance(folder, Folder) else Folder(folder)

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine."""
        return urls.scheme(self.url) == "file"

    def join(self, name: str) -> str:
        """The URL of one of its files."""
        return urls.join(self.url, name)

    def has(self, name: str) -> bool:
        """Whether it has a file of that name. Raises AccessError and ReadError where that cannot be known."""
        return self.vfs.exists(self.join(name))

    def read(self, name: str) -> bytes | None:
        """A whole file; None where there is none. Raises AccessError, ReadError."""
        try:
            return self.vfs.read(self.join(name))
        except NotFoundError:
            return None

    def need(self, name: str, otherwise: str) -> bytes:
        """A whole file. Raises CheckpointError, which goes on with `otherwise`, where there is none."""
        try:
            return self.vfs.read(self.join(name))
        except NotFoundError as error:
            # A local path says it all; of a URL it may be the bucket or the repository that is not there.
            what = f"{self.join(name)}: missing" if self.is_local else str(error)
            raise CheckpointError(f"{what}; {otherwise}") from error

    def check(self, what: str) -> None:
        """Raises CheckpointError, which says `what`, unless it is a folder. A remote one shows that when it is read."""
        if not self.is_local:
            return
        try:
            if self.vfs.stat(self.url).is_folder:
                return
            found = "is a file"
        except NotFoundError:
            found = "does not exist"
        except ReadError as error:
            raise CheckpointError(f"{what}: {error}") from error
        raise CheckpointError(f"{what}: {found}")
