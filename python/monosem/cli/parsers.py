"""A parser with its subparsers, and which options a command line gives."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def _actions(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]


def every(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and those of all actions of its command, such as ``lm train``."""
    below = [each for actions in _actions(parser) for each in actions.choices.values()]
    return [parser, *(p for each in below for p in every(each))]


def chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[argparse.ArgumentParser]:
    """The parser and that of the action that was chosen."""
    below = [actions.choices[getattr(args, actions.dest)] for actions in _actions(parser)]
    return [parser, *(p for each in below for p in chosen(each, args))]


@contextmanager
def defaults(of: dict[argparse.Action, Any]) -> Iterator[None]:
    """Other defaults of some options inside the block."""
    before = {action: action.default for action in of}
    try:
        for action, value in of.items():
            action.default = value
        yield
    finally:
        for action, value in before.items():
            action.default = value


class _Nowhere(list):
    """The default of an option that was not given; a list, because argparse appends to a copy of some."""


def given(parser: argparse.ArgumentParser, argv: list[str]) -> frozenset[str]:
    """The options given in ``argv``, with any value."""
    nowhere = _Nowhere()
    held = [action for each in chosen(parser, parser.parse_args(argv)) for action in each._actions]
    with defaults(dict.fromkeys(held, nowhere)):
        return frozenset(name for name, value in vars(parser.parse_args(argv)).items() if value is not nowhere)
