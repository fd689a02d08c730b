"""What a hub's answers of failure mean, in one line each: what was asked for, why it was refused, how to mend it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import constants

from zml.errors import AccessError, NotFoundError, ReadError

_NAMES = 8


class NoEntryError(NotFoundError):
    """The repository and the revision are there, but not the file or folder."""


@dataclass(frozen=True)
class Asked:
    """What a request was for."""

    url: str
    """As the user wrote it."""
    kind: str
    """model, dataset, space or kernel."""
    id: str
    revision: str
    path: str
    endpoint: str
    token: bool
    """Whether one was sent."""


def explain(asked: Asked, status: int, headers: Mapping[str, str]) -> ReadError:
    """The error for a status of 400 or more, by the code and the message in the hub's headers (names in lower case)."""
    code, said = headers.get("x-error-code"), headers.get("x-error-message", "")
    page = f"{asked.endpoint}/{constants.REPO_TYPES_URL_PREFIXES.get(asked.kind, '')}{asked.id}"
    repo = f"the {asked.kind} {asked.id}"
    if code == "GatedRepo":
        how = (
            f"the account of the token in {token_source()} does not have it: ask for it at {page}"
            if asked.token
            else f"ask for it at {page}, then {how_to_log_in()}"
        )
        return AccessError(f"{asked.url}: access to {repo} is given by its owners: {how}")
    if code == "RevisionNotFound":
        hint = "" if "/" in asked.revision else '; a "/" in a revision is written %2F'
        return NotFoundError(
            f"{asked.url}: {repo} has no branch, tag or commit {asked.revision!r}{hint}"
        )
    if code == "EntryNotFound":
        return NoEntryError(
            f"{asked.url}: {repo} has no file or folder {asked.path!r} at {asked.revision!r}"
        )
    if status == 401 and (said.startswith("Invalid credentials") or (asked.token and not code)):
        return AccessError(
            f"{asked.url}: the hub does not accept the token in {token_source()}: "
            f"is it mistyped, expired or revoked? Give another, or none for what is public"
        )
    if code == "RepoNotFound" or status == 401:
        how = (
            f"or one that the token in {token_source()} cannot read"
            if asked.token
            else f"or it is private: {how_to_log_in()}"
        )
        return NotFoundError(
            f"{asked.url}: there is no {asked.kind} {asked.id!r} at {asked.endpoint}, {how}"
        )
    why = f": {said}" if said else ""
    if status == 403:
        return AccessError(f"{asked.url}: the hub refuses access to {repo} (403){why}")
    if status == 404:
        return NotFoundError(
            f"{asked.url}: {asked.endpoint} answered 404{why}; "
            "if HF_ENDPOINT is set: does it name a hub?"
        )
    return ReadError(f"{asked.url}: the hub answered {status}{why}")


def missing(url: str, name: str, folder: str, names: Sequence[str]) -> NotFoundError:
    """The error for a name that a folder does not have, with those that may be meant."""
    near = difflib.get_close_matches(name, names, _NAMES, 0.4)
    shown = near or list(names[:_NAMES])
    more = ", ..." if len(shown) < len(names) else ""
    has = f"it has {', '.join(shown)}{more}" if shown else "it is empty"
    return NotFoundError(f"{url}: there is no {name!r} in {folder}; {has}")


def token_source() -> str:
    """Where the user's token comes from."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            return name
    return constants.HF_TOKEN_PATH


def how_to_log_in() -> str:
    """How a token is given."""
    given = "give a token of your account in HF_TOKEN, or by `hf auth login`"
    if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        given += " (HF_HUB_DISABLE_IMPLICIT_TOKEN is set: unset it, or none is sent)"
    return given
