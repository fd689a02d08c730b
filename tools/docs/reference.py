"""The pages of the API reference: what the sources say of each public name, as Markdown."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from tools.docs.source import Definition, Sources, UndocumentedError

ROOMS = (
    "ops", "nn", "attention", "models", "io", "vfs", "compile", "platform", "sharding", "errors",
)  # fmt: skip
"""The rooms with a page each, beside the page of zml's own names."""
_HEAD = "<!-- Written by `./bazel run //tools/docs` from docstrings: change those, and run it again. -->\n"


def pages(root: Path) -> dict[str, str]:
    """The text of each page by its file name."""
    sources = Sources(root)
    made = {"zml.md": _own(sources)}
    for room in ROOMS:
        made[f"{room}.md"] = _HEAD + "\n".join(_page(sources, f"zml.{room}")) + "\n"
    return made


def _own(sources: Sources) -> str:
    """The names of `zml` itself, with links to the pages of its rooms."""
    lines = ["# zml", "", _docstring(sources.tree("zml"), "zml"), "", "Rooms:", ""]
    for room in ROOMS:
        summary = _docstring(sources.tree(f"zml.{room}"), room).split("\n\n")[0].replace("\n", " ")
        lines.append(f"- [`zml.{room}`]({room}.md): {summary}")
    names = [name for name in sources.public("zml") if name not in ROOMS]
    found = [(name, sources.find("zml", name)) for name in names]
    elsewhere = {room: [n for n, d in found if _room(d) == room] for room in ROOMS}
    lines += ["", "Names of rooms that are here too:", ""]
    lines += [
        f"- {', '.join(f'`zml.{name}`' for name in some)}: see [`zml.{room}`]({room}.md)"
        for room, some in elsewhere.items()
        if some
    ]
    lines += _described([d for _, d in found if _room(d) not in ROOMS])
    return _HEAD + "\n".join(lines) + "\n"


def _room(definition: Definition) -> str:
    return definition.module.split(".")[1]


def _page(sources: Sources, module: str) -> Iterator[str]:
    yield f"# {module}"
    yield ""
    yield _docstring(sources.tree(module), module)
    found = [sources.find(module, name) for name in sources.public(module)]
    groups: dict[str, list[Definition]] = {module: []}
    for definition in found:
        # Operations are many: those of a file have a heading. Modules come last.
        many = module == "zml.ops" or definition.node is None
        groups.setdefault(definition.module if many else module, []).append(definition)
    modules = {d.module for d in found if d.node is None}
    for group, some in sorted(groups.items(), key=lambda item: item[0] in modules):
        if group != module:
            yield ""
            yield f"## {group if group in modules else group.rpartition('.')[2]}"
            yield ""
            yield _docstring(sources.tree(group), group)
        if group in modules:
            some = [sources.find(group, name) for name in sources.public(group)]
        yield from _described(some)


def _described(some: list[Definition]) -> Iterator[str]:
    """Functions, constants and types as a list, then each class."""
    short = [d for d in some if not isinstance(d.node, ast.ClassDef)]
    if short:
        yield ""
    for definition in short:
        yield from _item(definition)
    for definition in some:
        if isinstance(definition.node, ast.ClassDef):
            yield ""
            where = f"{definition.module}.{definition.name}"
            yield from _class(definition.name, definition.node, where)


def _item(definition: Definition) -> Iterator[str]:
    name, node = definition.name, definition.node
    where = f"{definition.module}.{name}"
    match node:
        case ast.FunctionDef():
            yield f"- `{_signature(name, node)}`: {_indented(_docstring(node, where))}"
        case ast.Assign() | ast.AnnAssign() | ast.TypeAlias():
            value = "" if node.value is None else ast.unparse(node.value)
            text = _indented(inspect.cleandoc(definition.comment))
            if len(value) > 100 and not text:
                raise UndocumentedError(f"{where} has no docstring below it; say what it is")
            shown = f"`{name} = {value}`" if len(value) <= 100 else f"`{name}`"
            yield f"- {shown}{f': {text}' if text else ''}"
        case _:
            raise UndocumentedError(f"{where} is no function, class, constant or type")


def _class(name: str, node: ast.ClassDef, where: str) -> Iterator[str]:
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    yield f"### `class {name}{bases}`"
    yield ""
    yield _docstring(node, where)
    constructor = _constructor(node)
    if constructor is not None:
        yield ""
        yield f"`{_signature(name, constructor, skip=1, returns=False)}`"
    members: list[str] = []
    operations: list[str] = []
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        match statement:
            case ast.Assign(targets=[ast.Name(id=field)], value=ast.Attribute()) if field[0] != "_":
                operations.append(field)
            case (
                ast.AnnAssign(target=ast.Name(id=field)) | ast.Assign(targets=[ast.Name(id=field)])
            ) if field[0] != "_":
                members.append(_field(field, statement, _oneline(following)))
            case ast.FunctionDef() if statement.name[0] != "_" or statement.name == "__call__":
                members.append(_method(name, statement, where))
    if members:
        yield ""
        yield from members
    if operations:
        yield ""
        yield f"Operations of [`zml.ops`](ops.md) as methods: {', '.join(f'`{x}`' for x in operations)}."


def _field(name: str, node: ast.AnnAssign | ast.Assign, text: str) -> str:
    kind = f": {_annotation(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
    value = f" = {ast.unparse(node.value)}" if node.value else ""
    return f"- `{name}{kind}{value}`{f': {text}' if text else ''}"


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return statement
    return None


def _method(owner: str, node: ast.FunctionDef, where: str) -> str:
    kinds = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    text = _indented(_docstring(node, f"{where}.{node.name}"))
    if kinds & {"property", "cached_property"}:
        return f"- `.{node.name}: {_annotation(node.returns)}`: {text}"
    free = bool(kinds & {"staticmethod", "classmethod"})
    name = "(call)" if node.name == "__call__" else f"{owner if free else ''}.{node.name}"
    return f"- `{_signature(name, node, skip=0 if 'staticmethod' in kinds else 1)}`: {text}"


def _signature(name: str, node: ast.FunctionDef, skip: int = 0, returns: bool = True) -> str:
    """As it is written, without the first `skip` parameters, and without the quotes around annotations."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    parts = [_parameter(arg, value) for arg, value in zip(positional, defaults, strict=True)]
    if given.posonlyargs:
        parts.insert(len(given.posonlyargs), "/")
    parts = parts[skip:]
    if parts[:1] == ["/"]:
        parts = parts[1:]
    if given.vararg or given.kwonlyargs:
        parts.append("*" + (_parameter(given.vararg, None) if given.vararg else ""))
    pairs = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    parts += [_parameter(arg, value) for arg, value in pairs]
    if given.kwarg:
        parts.append("**" + _parameter(given.kwarg, None))
    text = f"{name}({', '.join(parts)})"
    return f"{text} -> {_annotation(node.returns)}" if node.returns and returns else text


def _parameter(arg: ast.arg, default: ast.expr | None) -> str:
    text = f"{arg.arg}: {_annotation(arg.annotation)}" if arg.annotation else arg.arg
    return text if default is None else f"{text} = {ast.unparse(default)}"


class _Unquoted(ast.NodeTransformer):
    """Takes the quotes off the names in an annotation, but not off the strings of a Literal."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.parse(node.value, mode="eval").body if isinstance(node.value, str) else node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        if ast.unparse(node.value).endswith("Literal"):
            return node
        node.slice = self.visit(node.slice)
        return node


def _annotation(node: ast.expr | None) -> str:
    return "Any" if node is None else ast.unparse(_Unquoted().visit(node))


def _indented(text: str) -> str:
    """A docstring within an item of a list."""
    return text.replace("\n", "\n  ").replace("\n  \n", "\n\n")


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef, where: str) -> str:
    text = ast.get_docstring(node)
    if not text:
        raise UndocumentedError(f"{where} has no docstring; say what it is")
    return text


def _oneline(following: ast.stmt | None) -> str:
    """The string below a field, on one line."""
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return " ".join(str(following.value.value).split())
    return ""
