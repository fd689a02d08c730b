"""The cache on disk that programs with huggingface_hub share: blobs by etag, links to them by commit, refs."""

from __future__ import annotations

import contextlib
import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zml.errors import CorruptedError, ReadError
from zml.vfs.base import Cancellation, Checksum, Options
from zml.vfs.patience import Patience, TryAgainError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_CHUNK = 4 << 20


@dataclass(frozen=True)
class Repo:
    """A repository, by what names it in URLs and on disk."""

    kind: str
    id: str

    @property
    def folder(self) -> str:
        """Its folder in a cache."""
        return "--".join([f"{self.kind}s", *self.id.split("/")])


class HubCache:
    """A cache's folder, which need not be there. Only `download` and `remember` write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, repo: Repo, revision: str) -> str | None:
        """The commit that a revision had when it was last downloaded; None where it was not."""
        if not is_inside(revision):
            return None
        with contextlib.suppress(OSError, ValueError):
            found = (self.folder / repo.folder / "refs" / revision).read_text("utf-8").strip()
            return found if _COMMIT.fullmatch(found) else None
        return None

    def snapshot(self, repo: Repo, commit: str) -> Path:
        """The folder of a commit's files, as far as they were downloaded."""
        return self.folder / repo.folder / "snapshots" / commit

    def find(self, repo: Repo, commit: str, path: str) -> Path | None:
        """A file or folder of a commit that is here."""
        if path and not is_inside(path):
            return None
        found = self.snapshot(repo, commit) / path
        with contextlib.suppress(OSError):  # another user's, or a name that is too long
            return found if found.exists() else None
        return None

    def remember(self, repo: Repo, revision: str, commit: str) -> None:
        """Notes which commit a revision has, for when the hub cannot be asked. Raises OSError."""
        if revision == commit or not is_inside(revision):
            return
        ref = self.folder / repo.folder / "refs" / revision
        if self.commit(repo, revision) != commit:
            ref.parent.mkdir(parents=True, exist_ok=True)
            temporary = ref.with_name(f"{ref.name}.{uuid.uuid4().hex[:8]}.tmp")
            temporary.write_text(commit, "utf-8")
            temporary.replace(ref)


@dataclass(frozen=True)
class Download:
    """A file to bring into a cache, by huggingface_hub's own means: Xet where the hub offers it, else one stream."""

    cache: HubCache
    repo: Repo
    commit: str
    path: str
    endpoint: str
    token: str | None

    def run(self, url: str, options: Options, cancellation: Cancellation) -> Path:
        """Where it is now. Raises HfHubHTTPError for what the hub refuses; ReadError, CorruptedError, CancelledError.

        An LFS file is compared with its SHA-256, once; what differs is fetched again, once.
        """
        patience = Patience(options, url, cancellation)
        for _ in range(2):
            path = self._fetch(url, patience)
            blob = _blob(path)
            if not _SHA256.fullmatch(blob.name) or _sha256(blob, cancellation) == blob.name:
                return path
            remove(path)
        raise CorruptedError(
            f"{url}: what was downloaded has not the SHA-256 that the hub gives ({blob.name}), twice: "
            "is there a proxy that changes it?"
        )

    def _fetch(self, url: str, patience: Patience) -> Path:
        import httpx2
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        while True:
            patience.cancellation.check()
            try:
                return Path(
                    hf_hub_download(
                        self.repo.id,
                        self.path,
                        repo_type=self.repo.kind,
                        revision=self.commit,
                        cache_dir=self.cache.folder,
                        endpoint=self.endpoint,
                        token=self.token or False,
                        tqdm_class=_progress(patience),
                    )
                )
            except HfHubHTTPError as error:
                if error.response.status_code not in _TEMPORARY:
                    raise
                failure = TryAgainError(f"the hub answered {error.response.status_code}")
            except (httpx2.TransportError, LocalEntryNotFoundError) as error:
                cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
                if isinstance(cause, HfHubHTTPError) and cause.response.status_code < 500:
                    raise cause from None
                failure = TryAgainError(str(cause or error).strip().split("\n")[0])
            except OSError as error:
                if error.errno is not None:
                    raise ReadError(
                        f"{url}: cannot be kept in the cache {self.cache.folder}: {error.strerror}; "
                        "read without a cache, or choose another folder for it"
                    ) from error
                failure = TryAgainError(str(error).split("\n")[0])
            patience.again(failure)


def is_inside(path: str) -> bool:
    """Whether a path stays in the folder that it is put into."""
    return bool(path) and not any(part in ("", ".", "..") for part in path.split("/"))


def remove(path: Path) -> None:
    """Takes a file out of a cache. Its blob too, or the next program takes that for what its name says."""
    for each in (path.resolve(), _blob(path), path):
        each.unlink(missing_ok=True)


def etag_of(path: Path) -> str | None:
    """The hub's name of a cached file's version; None where the cache has no blobs, as on disks without links."""
    blob = _blob(path)
    return blob.name if blob.parent.name == "blobs" else None


def checksum_of(etag: str | None) -> Checksum | None:
    """What an etag says of the content: those of LFS files are their SHA-256."""
    if etag is None or not _SHA256.fullmatch(etag):
        return None
    return Checksum("sha256", bytes.fromhex(etag))


def _blob(path: Path) -> Path:
    """What a link of a snapshot leads to; that may be a link itself, to a store of all repositories."""
    return path.parent / path.readlink() if path.is_symlink() else path


def _sha256(path: Path, cancellation: Cancellation) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            cancellation.check()
            digest.update(chunk)
    return digest.hexdigest()


def _progress(patience: Patience) -> Any:
    """huggingface_hub's progress bar, which ends the download that it shows when that is cancelled."""
    from huggingface_hub.utils.tqdm import tqdm

    class Progress(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            patience.cancellation.check()
            patience.progress()
            return super().update(n)

    return Progress
