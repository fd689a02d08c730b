"""Where credentials are found."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from third_party.rules_oci.oci.private.credentials import Credentials, find
from third_party.rules_oci.oci.private.layout import OciError

HOST = "registry.example:5000"
ENTRY = {"auth": base64.b64encode(b"user:pass:word").decode()}


def environment(tmp_path: Path, config: Any) -> dict[str, str]:
    folder = tmp_path / ".docker"
    folder.mkdir()
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {"HOME": str(tmp_path)}


def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text(f"#!/bin/sh\nread -r host\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/"])
def test_a_password_in_the_file(key: str, tmp_path: Path) -> None:
    found = find(HOST, environment(tmp_path, {"auths": {"other.example": {}, key: ENTRY}}))
    assert found == Credentials("user", "pass:word")
    assert found.basic == "Basic " + ENTRY["auth"]


def test_an_identity_token_in_the_file(tmp_path: Path) -> None:
    found = find(HOST, environment(tmp_path, {"auths": {HOST: ENTRY | {"identitytoken": "token"}}}))
    assert found == Credentials("user", "pass:word", "token")


def test_podmans_file(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers/auth.json").write_text(json.dumps({"auths": {HOST: ENTRY}}))
    assert find(HOST, {"XDG_RUNTIME_DIR": str(tmp_path)}) == Credentials("user", "pass:word")


@pytest.mark.parametrize("config", [{}, {"auths": {"other.example": ENTRY}}, {"auths": {HOST: {}}}])
def test_nothing_is_known(config: dict[str, Any], tmp_path: Path) -> None:
    assert find(HOST, environment(tmp_path, config)) is None
    assert find(HOST, {}) is None


@pytest.mark.parametrize("config", [{"credHelpers": {HOST: "test"}}, {"credsStore": "test"}])
def test_a_helper_is_asked(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, 'echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"$host\\"}"')
    assert find(HOST, environment(tmp_path, config)) == Credentials("get", HOST)


def test_a_helper_with_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, monkeypatch, """echo '{"Username": "<token>", "Secret": "abc"}'""")
    found = find(HOST, environment(tmp_path, {"credsStore": "test"}))
    assert found == Credentials(identity_token="abc")


def test_a_helper_that_knows_nothing_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, "echo credentials not found in native keychain; exit 1")
    config = {"credsStore": "test", "auths": {HOST: ENTRY}}
    assert find(HOST, environment(tmp_path, config)) == Credentials("user", "pass:word")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo locked; exit 1", "docker-credential-test gave no credentials for .*: locked"),
        ("echo hello", "docker-credential-test answered in no known form: 'hello"),
    ],
)
def test_a_helper_that_fails(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(tmp_path, monkeypatch, script)
    with pytest.raises(OciError, match=message):
        find(HOST, environment(tmp_path, {"credsStore": "test"}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json is not JSON .*: mend it, or log in anew"),
        (
            {"credsStore": "absent"},
            "names the credential helper docker-credential-absent, which does not run",
        ),
        ({"auths": {HOST: {"auth": "?"}}}, "is no base64: log in anew"),
    ],
)
def test_a_broken_configuration(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OciError, match=message):
        find(HOST, environment(tmp_path, config))
