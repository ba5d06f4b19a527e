"""How help is printed: defaults as they are typed, and N and X for numbers."""

from __future__ import annotations

import argparse

from monosem.cli.actions import Switch


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if "(default: " in (action.help or ""):
            return action.help
        if isinstance(action, Switch):
            return f"{action.help} (default: yes)" if default else action.help
        if default is False or (not default and not isinstance(default, (int, float))):
            return action.help
        if isinstance(default, (list, tuple)):
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, Switch):
            return ", ".join(action.option_strings[:1] if action.default is False else action.option_strings)
        return super()._format_action_invocation(action)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {int: "N", float: "X"}.get(action.type) or super()._get_default_metavar_for_optional(action)


class RawHelp(argparse.RawDescriptionHelpFormatter, Help):
    """:class:`Help` for a description that is laid out already."""
