"""Chat templates: the checkpoint's own Jinja template turns messages into a prompt.

A template comes with the weights and is untrusted: it runs in Jinja's sandbox. The functions and tags offered to it are
those of transformers' `apply_chat_template`.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zml.errors import CheckpointError
from zml.llm.checkpoint import read_json
from zml.vfs import Folder

Message = dict[str, str]
"""`role` (system, user, assistant) and `content`."""

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class ChatTemplate:
    """Renders messages to the text that the model expects before its answer."""

    def __init__(self, source: str, where: str, special: dict[str, str]) -> None:
        self._where = where
        self._special = special
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # also what Python says of code that Jinja makes of it
            raise CheckpointError(
                f"{where}: the chat template does not parse: {error!s:.500}"
            ) from error

    @staticmethod
    def open(folder: Folder | str | Path) -> "ChatTemplate | None":
        """The template in chat_template.jinja, else in tokenizer_config.json; None where there is none."""
        folder = Folder.of(folder)
        config = read_json(folder, "tokenizer_config.json")
        special = {name: text for name in _SPECIAL if (text := _token_text(config.get(name)))}
        own = folder.read("chat_template.jinja")
        if own is not None:
            path = folder.join("chat_template.jinja")
            try:
                return ChatTemplate(own.decode("utf-8"), path, special)
            except UnicodeDecodeError as error:
                raise CheckpointError(f"{path}: cannot be read: {error}") from error
        path = folder.join("tokenizer_config.json")
        source = config.get("chat_template")
        if isinstance(source, list):  # named templates; the one for plain chat is called default
            named = (t for t in source if isinstance(t, dict) and t.get("name") == "default")
            source = next((t.get("template") for t in named), None)
        if source is None:
            return None
        if not isinstance(source, str):
            raise CheckpointError(
                f"{path}: chat_template is {type(source).__name__}, expected a string"
            )
        return ChatTemplate(source, path, special)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for the assistant's next message."""
        try:
            return self._template.render(
                messages=list(messages),
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._special,
            )
        except Exception as error:  # a template is a program: it may fail in any way
            what = str(error) or type(error).__name__
            raise CheckpointError(
                f"{self._where}: the chat template failed: {what:.500}"
            ) from error


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; rendering is unchanged."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _token_text(token: object) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any
) -> str:
    # Not Jinja's own filter, which escapes HTML characters.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
