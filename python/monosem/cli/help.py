"""How help is printed: defaults as they are typed, and N and X for numbers."""

from __future__ import annotations

import argparse


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is False or (not default and not isinstance(default, (int, float))):
            return action.help
        if isinstance(default, (list, tuple)):
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {int: "N", float: "X"}.get(action.type) or super()._get_default_metavar_for_optional(action)


class RawHelp(argparse.RawDescriptionHelpFormatter, Help):
    """:class:`Help` for a description that is laid out already."""
