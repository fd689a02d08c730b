import json
import re
from pathlib import Path
from typing import Any

import pytest

from zml.errors import CheckpointError
from zml.llm.chat import ChatTemplate, Message

_WHERE = "model/chat_template.jinja"
_CHAT: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": 'Ünïcode & <b>"q"</b>'},
]


def _render(source: str, messages: list[Message] = _CHAT, **special: str) -> str:
    return ChatTemplate(source, _WHERE, special).render(messages)


def _open(folder: Path, config: Any) -> ChatTemplate | None:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return ChatTemplate.open(folder)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m['role'] }}:{{ m.content | length }}\n{% endfor %}", "system:9\nuser:20\n"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{{ tools is none }}{{ documents is none }}", "TrueTrue"),
        ("{{ bos_token }}|{{ eos_token }}|{{ nothing }}", "<s>||"),
        # transformers' settings: a block's own line leaves nothing behind.
        ("a\n  {% if true %}\nb\n  {% endif %}\nc", "a\nb\nc"),
        ("{{ messages[1].content | tojson }}", '"Ünïcode & <b>\\"q\\"</b>"'),
        ("{{ {'b': 1, 'a': [2]} | tojson }}", '{"b": 1, "a": [2]}'),
        ("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}", '{\n "a": 2,\n "b": 1\n}'),
        ("{{ {'a': 1} | tojson(separators=(',', ':')) }}", '{"a":1}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% generation %}answer{% endgeneration %}", "answer"),
        ("{% set x = 1 %}{% generation %}{{ x }}{% endgeneration %}", "1"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "1"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages | length) }}", "[2]"),
        ("{{ messages[1:][0].content.split('&')[0].upper() }}", "ÜNÏCODE "),
    ],
)  # fmt: skip
def test_what_templates_use_works(source: str, expected: str) -> None:
    assert _render(source, bos_token="<s>") == expected


def test_strftime_now_gives_a_date() -> None:
    assert re.fullmatch(r"\d\d \w{3} \d{4}", _render("{{ strftime_now('%d %b %Y') }}"))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "failed: roles must alternate"),
        ("{{ messages[9].content }}", "failed: list object has no element 9"),
        ("{{ nothing.at.all }}", "failed: 'nothing' is undefined"),
        ("{{ 1 / 0 }}", "failed: division by zero"),
        ("{{ none + 1 }}", "failed: unsupported operand"),
        ("{{ messages[0].content.index('zz') }}", "failed: substring not found"),
        ("{{ [].pop() }}", "failed: "),
        ("{{ 'a'.encode('no such codec') }}", "failed: unknown encoding"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "failed: maximum recursion"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "failed: Range too big"),
        ("{% include 'file' %}", "failed: no loader"),
        ("{{ raise_exception() }}", "failed: "),
        ("{% for %}", "does not parse"),
        ("{{ 'a' | no_such_filter }}", "does not parse: No filter named"),
        ("{% generation %}", "does not parse"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "does not parse|nested"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "does not parse"),
    ],
    ids=lambda value: value[:40],
)
def test_whatever_goes_wrong_is_a_checkpoint_error(source: str, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as error:
        _render(source)
    assert str(error.value).startswith(f"{_WHERE}: the chat template ")
    assert len(str(error.value)) < 700


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}x{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ strftime_now.__globals__.datetime }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
    ],
)
def test_an_escape_from_the_sandbox_is_refused(source: str) -> None:
    messages = [dict(message) for message in _CHAT]
    with pytest.raises(CheckpointError, match="the chat template failed"):
        _render(source, messages)
    assert messages == _CHAT


def test_the_attr_filter_finds_nothing_private() -> None:
    assert _render("{{ ''|attr('__class__') }}{{ raise_exception|attr('__globals__') }}") == ""


def test_the_template_of_its_own_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}own")
    template = _open(
        tmp_path, {"chat_template": "config", "bos_token": {"content": "<s>", "lstrip": False}}
    )
    assert template is not None and template.render([]) == "<s>own"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}], "yes"),
        ([{"name": "tool_use", "template": "no"}], None),
        ([{"name": ["default"]}, 1, {"name": "default", "template": "yes"}], "yes"),
        (None, None),
        ([], None),
    ],
)
def test_each_form_of_the_config(value: Any, expected: str | None, tmp_path: Path) -> None:
    template = _open(tmp_path, {"chat_template": value})
    assert (template and template.render([])) == expected


@pytest.mark.parametrize("value", [3, {"default": "x"}, [{"name": "default", "template": 3}]])
def test_a_template_that_is_none_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config\.json: chat_template is .*expected a string"
    ):
        _open(tmp_path, {"chat_template": value})


def test_a_template_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja: cannot be read"):
        ChatTemplate.open(tmp_path)


def test_a_folder_without_a_template_has_none(tmp_path: Path) -> None:
    assert ChatTemplate.open(tmp_path) is None


def test_special_tokens_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    config = {
        "chat_template": "[{{ bos_token }}{{ eos_token }}]",
        "bos_token": 1,
        "eos_token": None,
    }
    template = _open(tmp_path, config)
    assert template is not None and template.render([]) == "[]"
