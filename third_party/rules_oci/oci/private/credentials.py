"""The user's credentials for a registry, where docker and podman keep them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .layout import OciError


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or a token that stands for both."""

    user: str = ""
    password: str = ""
    identity_token: str = ""
    """To be exchanged for an access token, by OAuth."""

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def find(registry: str, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials of the first configuration file that has some for `registry` (a host, with its port)."""
    for path in _files(environment):
        if not path.is_file():
            continue
        try:
            config = json.loads(path.read_bytes())
        except ValueError as error:
            raise OciError(f"{path} is not JSON ({error}): mend it, or log in anew") from error
        if (found := _in_config(config, registry)) is not None:
            return found
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    """podman's order, docker's own file before those of podman."""
    if "REGISTRY_AUTH_FILE" in environment:
        yield Path(environment["REGISTRY_AUTH_FILE"])
    home = environment.get("HOME")
    if folder := environment.get("DOCKER_CONFIG"):
        yield Path(folder, "config.json")
    elif home:
        yield Path(home, ".docker", "config.json")
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers", "auth.json")
    if home:
        yield Path(home, ".config", "containers", "auth.json")


def _in_config(config: dict[str, Any], registry: str) -> Credentials | None:
    helpers = {_host(key): value for key, value in config.get("credHelpers", {}).items()}
    for helper in filter(None, (helpers.get(registry), config.get("credsStore"))):
        if (found := _ask(helper, registry)) is not None:
            return found
    for key, entry in config.get("auths", {}).items():
        if _host(key) == registry and entry:
            return _entry(entry, registry)
    return None


def _host(key: str) -> str:
    """The host of a key, which may be an address with a path."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _entry(entry: dict[str, Any], registry: str) -> Credentials:
    user, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            user, _, password = (
                base64.b64decode(entry["auth"], validate=True).decode().partition(":")
            )
        except ValueError as error:
            raise OciError(
                f"the entry of {registry} in docker's configuration is no base64: log in anew"
            ) from error
    return Credentials(user, password.rstrip("\0"), entry.get("identitytoken", ""))


def _ask(helper: str, registry: str) -> Credentials | None:
    """What a credential helper says; None where it has nothing for the registry."""
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, "get"],
            input=registry,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OciError(
            f"docker's configuration names the credential helper {program}, which does not run: {error}"
        ) from error
    if answer.returncode:
        said = (answer.stdout + answer.stderr).strip()
        if "not found" in said:
            return None
        raise OciError(f"{program} gave no credentials for {registry}: {said}")
    try:
        found = json.loads(answer.stdout)
        user, secret = found["Username"], found["Secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise OciError(f"{program} answered in no known form: {answer.stdout[:80]!r}") from error
    # A token is handed out under a user name that no registry has.
    return Credentials(identity_token=secret) if user == "<token>" else Credentials(user, secret)
