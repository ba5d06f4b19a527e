"""Options of a command from the fields of a dataclass: name, type, default, choices and help stand there alone.

Not by tyro or jsonargparse: to import them takes a second (argparse: under 0.1 s), and their errors are boxes of
several lines, or lack suggestions.
"""

from __future__ import annotations

import argparse
import inspect
import re
import types
from collections.abc import Container
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from monosem.cli.actions import Switch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def add_options(
    parser, config: type[DataclassInstance], *, without: Container[str] = (), **changed: dict[str, Any]
) -> None:
    """An option for each field.

    A field's words in the section "Attributes" of the docstring are its help. Where they end with ``; None: …``, these
    are its default in words.

    Args:
        parser: or a group of one.
        config: a dataclass whose fields all have defaults.
        without: fields that get no option.
        changed: {field: arguments of ``add_argument``} where the command line differs.
    """
    hints, said = get_type_hints(config), descriptions(config)
    for field in fields(config):
        if field.name not in without:
            text = re.sub(r"; None: (.*)$", r" (default: \1)", said.get(field.name, "").rstrip(".")).replace("%", "%%")
            made = {"help": text, "default": field.default} | _argument(hints[field.name])
            parser.add_argument(f"--{field.name.replace('_', '-')}", **made | changed.get(field.name, {}))


def build(config: type[T], args: argparse.Namespace, **instead: Any) -> T:
    """The dataclass with the values of its options, or others."""
    known = [field.name for field in fields(config) if hasattr(args, field.name)]
    values = {name: getattr(args, name) for name in known}
    return config(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()} | instead)


def _argument(hint: Any) -> dict[str, Any]:
    """Arguments of ``add_argument`` for a type."""
    if hint is bool:
        return {"action": Switch}
    if hint in (int, float, str):
        return {} if hint is str else {"type": hint}
    of = get_args(hint)
    if get_origin(hint) is Literal:
        return {"choices": of}
    if get_origin(hint) is tuple and len(set(of) - {...}) == 1:
        return {"nargs": "+" if ... in of else len(of)} | _argument(of[0])
    if get_origin(hint) in (Union, types.UnionType):
        rest = [kind for kind in of if kind is not type(None)]
        if set(rest) == {int, float}:
            return {"type": time, "metavar": "X"}
        if len(rest) == 1:
            return _argument(rest[0])
    raise TypeError(f"config: got a field of type {hint}; wanted it in `without`, or a type that has an option")


def time(text: str) -> int | float:
    """``200`` is steps, ``0.02`` a share of them: what ``int | float`` means in a configuration."""
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted steps (200) or a share of the run (0.02)") from None


def descriptions(config: type) -> dict[str, str]:
    """Each field's words in the section "Attributes" of the docstrings of a configuration and its base classes."""
    found: dict[str, str] = {}
    for cls in config.__mro__:
        _, _, section = (inspect.cleandoc(cls.__doc__) if cls.__doc__ else "").partition("Attributes:\n")
        for names, words in re.findall(r"^ {4}([\w, …]+): (.*(?:\n {8,}.*)*)", section, flags=re.M):
            for name in names.split(", ") if not words.startswith("as in ") else ():  # described in a base class
                found.setdefault(name, re.sub(r"``|\s*\n\s*", lambda m: "" if m[0] == "``" else " ", words))
    return found
