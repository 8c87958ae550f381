"""Arguments of classes, read from their source: a command line is checked before torch and Lightning are imported.

Importing them takes seconds, reading their files milliseconds. Only what the text of a file says for certain is used:
names, numbers, truth values, texts and choices; every other type accepts anything, and the real parser decides.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import field, make_dataclass
from functools import cache, partial
from pathlib import Path
from types import GenericAlias
from typing import Any, Literal, Union, get_args, get_origin

PLAIN = {"int": int, "float": float, "bool": bool, "str": str, "None": type(None)}
"""Types that are checked, by the names that files give them."""

LISTS = ("list", "tuple", "Sequence")
"""Types of several values of one type."""

Argument = tuple[str, str, ast.expr | None]
"""Name, module in which its annotation stands, and annotation."""


@cache
def settings_class(module: str, name: str) -> type:
    """Make a dataclass with the arguments of a class; arguments that are dataclasses are made likewise.

    Args:
        module: Dotted name of the module that defines the class.
        name: Name of the class.

    Returns:
        A dataclass with the same names and types; its defaults are of the right type, and else arbitrary.
    """
    fields: list[tuple[str, Any, Any]] = []
    for argument, at, annotation in _arguments(module, name):
        kind = _kind(at, annotation)
        nested = hasattr(kind, "__dataclass_fields__")
        default = field(default_factory=kind if nested else partial(_some_value, kind))
        fields.append((argument, kind, default))
    return make_dataclass(name, fields)


def _some_value(kind: Any) -> Any:
    """Return a value of a type; a default of null would make the type accept null."""
    accepted = get_args(kind)
    if get_origin(kind) in (list, tuple):
        return get_origin(kind)()
    if get_origin(kind) is Literal:
        return accepted[0]
    if accepted:
        return None if type(None) in accepted else _some_value(accepted[0])
    return None if kind in (Any, type(None)) else kind()


def class_names(package: str) -> list[str]:
    """Return the dotted names of all public classes that the files of a package define, sub-packages excepted."""
    first, *parts = package.split(".")
    files = sorted(file for folder in _folders(first) for file in Path(folder, *parts).glob("*.py"))
    return [
        f"{package}.{file.stem}.{node.name}"
        for file in files
        for node in _tree(f"{package}.{file.stem}")
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def class_constant(module: str, name: str, constant: str) -> Any:
    """Return what a class, or the nearest base class that says it, sets a name to; None where no file says it.

    Args:
        module: Dotted name of the module that defines the class.
        name: Name of the class.
        constant: The name, set to a plain value such as True.
    """
    found = _definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    at, node = found[0], found[1]
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and statement.value and ast.unparse(statement.target) == constant:
            return ast.literal_eval(statement.value)
    values = (class_constant(at, base.id, constant) for base in node.bases if isinstance(base, ast.Name))
    return next((value for value in values if value is not None), None)


def _arguments(module: str, name: str) -> list[Argument]:
    """Return the arguments of a class; those that it hands on as `**name` are its base class's."""
    found = _definition(module, name)
    if found is None or not isinstance(found[1], ast.ClassDef):
        raise LookupError(f"{module} defines no class {name}")
    at, node = found[0], found[1]
    bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
    if _is_dataclass(node):
        return [(ast.unparse(n.target), at, n.annotation) for n in node.body if isinstance(n, ast.AnnAssign)]
    init = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None and not bases:
        raise LookupError(f"{at}: {node.name} takes the arguments of a class that no file here defines")
    if init is None:
        return _arguments(at, bases[0])
    arguments = [*init.args.args[1:], *init.args.kwonlyargs]
    own = [(argument.arg, at, argument.annotation) for argument in arguments]
    if init.args.kwarg is None or not bases:
        return own
    names = {argument for argument, *_ in own}
    return [*own, *(argument for argument in _arguments(at, bases[0]) if argument[0] not in names)]


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def _kind(module: str, node: ast.expr | None) -> Any:
    """Return the type that an annotation stands for; `Any` where only an import could tell."""
    if isinstance(node, ast.Constant):
        return type(None) if node.value is None else _kind(module, ast.parse(str(node.value), mode="eval").body)
    if isinstance(node, ast.Name):
        return PLAIN.get(node.id) or _named(module, node.id)
    if isinstance(node, ast.BinOp):
        return _union(module, [node.left, node.right])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if node.value.id == "Literal":
            return Literal[tuple(ast.literal_eval(value) for value in inner)]
        if node.value.id in LISTS and (entry := _kind(module, inner[0])) is not Any:
            return GenericAlias(tuple, (entry, ...)) if node.value.id == "tuple" else GenericAlias(list, (entry,))
        if node.value.id in ("Union", "Optional"):
            return _union(module, [*inner, *([ast.Constant(None)] if node.value.id == "Optional" else [])])
    return Any


def _union(module: str, parts: list[ast.expr]) -> Any:
    kinds = [_kind(module, part) for part in parts]
    certain = all(kind is not Any and not hasattr(kind, "__dataclass_fields__") for kind in kinds)
    return Union[tuple(kinds)] if certain else Any  # noqa: UP007 - of a list


def _named(module: str, name: str) -> Any:
    """Return the type of a name: a list of choices, or a dataclass."""
    found = _definition(module, name)
    if found is None:
        return Any
    at, node = found
    if isinstance(node, ast.ClassDef):
        return settings_class(at, name) if _is_dataclass(node) else Any
    return _kind(at, node)


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.expr] | None:
    """Find what a name stands for in a module, through imports from the same package; None if no file says it."""
    for node in _tree(module):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return module, node.value
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == module.split(".")[0]:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(node.module, alias.name)
    return None


@cache
def _tree(module: str) -> tuple[ast.stmt, ...]:
    """Statements of a module, without importing anything; none if it has no file of its own."""
    package, *parts = module.split(".")
    return tuple(statement for folder in _folders(package) for statement in _statements(Path(folder, *parts)))


def _folders(package: str) -> list[str]:
    spec = importlib.util.find_spec(package)
    return [] if spec is None else list(spec.submodule_search_locations or ())


def _statements(path: Path) -> Iterator[ast.stmt]:
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if file.is_file():
        yield from ast.parse(file.read_text(encoding="utf-8")).body
