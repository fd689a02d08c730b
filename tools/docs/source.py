"""Finds public names in the sources: by reading, without importing, so that the result depends on the text alone."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path


class UndocumentedError(Exception):
    """A public name that cannot be described."""


@dataclass(frozen=True)
class Definition:
    """Where a public name is defined: the file's module, and the statements that define and describe it."""

    name: str
    module: str
    node: ast.stmt | None
    """None for a module."""
    comment: str = ""
    """The string below an assignment."""


class Sources:
    """The modules of the package under a root folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.tree = cache(self._parse)

    def _path(self, module: str) -> Path | None:
        base = self._root / module.replace(".", "/")
        found = (path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file())
        return next(found, None)

    def _parse(self, module: str) -> ast.Module:
        path = self._path(module)
        if path is None:
            raise UndocumentedError(f"there is no module {module}")
        return ast.parse(path.read_text("utf-8"))

    def constant(self, module: str, name: str) -> object:
        """The value of an assignment of literals, such as `__all__`; None if there is none."""
        for statement in self.tree(module).body:
            if isinstance(statement, ast.Assign) and name in map(_target, statement.targets):
                return ast.literal_eval(statement.value)
        return None

    def public(self, module: str) -> list[str]:
        """The names of `__all__`, or else those defined there without an underscore before them, in their order."""
        listed = self.constant(module, "__all__")
        if isinstance(listed, list):
            return sorted(listed, key=lambda name: (not name.isupper(), name.lower()))
        return [
            statement.name
            for statement in self.tree(module).body
            if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name[0] != "_"
        ]

    def find(self, module: str, name: str) -> Definition:
        """The definition of a name, wherever it is imported from. Raises UndocumentedError."""
        body = self.tree(module).body
        for statement, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(statement, ast.ImportFrom):
                for alias in statement.names:
                    if name == (alias.asname or alias.name) and statement.module != module:
                        found = self.find(statement.module or "", alias.name)
                        return Definition(name, found.module, found.node, found.comment)
            elif name in _defined(statement):
                comment = ""
                if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                    comment = str(following.value.value)
                return Definition(name, module, statement, comment)
        lazy = self.constant(module, "_MODULES")
        if isinstance(lazy, dict) and name in lazy:
            return self.find(f"{module}.{lazy[name]}", name)
        if self._path(f"{module}.{name}"):
            return Definition(name, f"{module}.{name}", None)
        raise UndocumentedError(f"{module} has no {name}, which its __all__ lists")


def _target(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _defined(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(decorator_list=[ast.Name(id="overload")]):
            return []
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [_target(target) for target in targets]
        case ast.AnnAssign(target=target) | ast.TypeAlias(name=target):
            return [_target(target)]
    return []
