"""Options of two forms, and those that a file gives in another form than the command line."""

from __future__ import annotations

import argparse
from typing import Any


class Switch(argparse.Action):
    """``--name`` and ``--no-name``. Help shows both unless the second is the default."""

    def __init__(
        self, option_strings, dest: str, default: bool | None = False, help: str | None = None, **_: Any
    ) -> None:
        names = [*option_strings, *(f"--no-{name.removeprefix('--')}" for name in option_strings)]
        super().__init__(names, dest, nargs=0, default=default, help=help)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, not str(option_string).startswith("--no-"))


class Readable(argparse._StoreAction):
    """An option that ``--config`` gives in another form than the command line."""

    def of_file(self, value: Any) -> Any:
        """The value in the namespace. Raises ValueError for one of another type."""
        raise NotImplementedError

    def to_file(self, value: Any) -> Any:
        """The inverse of ``of_file``."""
        raise NotImplementedError
