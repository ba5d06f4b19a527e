"""``--config`` and ``--print-config``: the options of a command in a YAML file, which is also kept with a run."""

from __future__ import annotations

import argparse
import re
import textwrap
from pathlib import Path
from typing import Any

from monosem.cli import parsers
from monosem.cli.actions import Readable, Switch
from monosem.data.nearest import did_you_mean

KEPT = "run.yaml"  # in the folder of a run
_OWN = ("help", "config", "print_config")
_WANTED = {None: "text, in quotes where YAML takes it for something else", int: "an integer", float: "a number"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config`` and ``--print-config``."""
    group = parser.add_argument_group("options in a file")
    group.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="take options from this file (YAML or JSON, by their names); those of the command line go before. A run "
        f"keeps its own in {KEPT}",
    )
    group.add_argument("--print-config", action=Switch, help="print all options as such a file, and stop")


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The options of a command line and of the file that it names.

    ``given`` holds the names of those that were given: on the command line, or in the file with another value than the
    default. ``as_config`` is the text of ``--print-config``.

    Raises:
        ValueError: the file is no YAML, or has an unknown option, one given twice or a value of another type.
        FileNotFoundError: there is no such file.
    """
    in_file = any(word.split("=")[0] in ("--config", "--print-config") for word in argv)
    required = [a for p in parsers.every(parser) for a in p._actions if a.required and a.option_strings and in_file]
    for action in required:  # the file may have them
        action.required = False
    first = parser.parse_args(argv)
    chosen, typed = parsers.chosen(parser, first)[-1], parsers.given(parser, argv)
    values = _of_file(chosen, first.config, typed) if getattr(first, "config", None) else {}
    for action in required:
        action.required = values.get(action) is None and not first.print_config
    with parsers.defaults(values):
        args = parser.parse_args(argv)
    args.given = typed | {action.dest for action in values}
    if hasattr(args, "config"):
        args.as_config = _text(chosen, args)
    return args


def _of_file(parser: argparse.ArgumentParser, path: str, typed: frozenset[str]) -> dict[argparse.Action, Any]:
    """The options that the file sets to other values than their defaults, less those that ``typed`` overrides."""
    known = {_key(action): action for action in _options(parser)}
    values: dict[argparse.Action, Any] = {}
    for key, value in _read(path).items():
        action = known.get(str(key).replace("-", "_"))
        if action is None:
            raise ValueError(
                f"config: {path!r}: got the key {key!r}; wanted an option of {parser.prog}."
                + did_you_mean(str(key), known)
            )
        try:
            made = _value(action, value)
        except ValueError as error:
            raise ValueError(f"config: {path!r}: {key}: {error}") from None
        if not _same(made, action.default):
            values[action] = made
    overridden = set(typed)
    for group in parser._mutually_exclusive_groups:
        names = [action.dest for action in group._group_actions]
        held = [_key(action) for action in group._group_actions if action in values]
        if len(held) > 1:
            raise ValueError(
                f"config: {path!r}: got {' and '.join(held)}; wanted one of them, as they exclude each other"
            )
        overridden |= set(names) if overridden & set(names) else set()
    return {action: value for action, value in values.items() if action.dest not in overridden}


def _same(value: Any, default: Any) -> bool:
    as_list = lambda v: list(v) if isinstance(v, tuple) else v
    return as_list(value) == as_list(default) and isinstance(value, bool) == isinstance(default, bool)


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [a for a in parser._actions if a.option_strings and a.dest not in _OWN]


def _key(action: argparse.Action) -> str:
    return action.option_strings[0].removeprefix("--").replace("-", "_")


def _value(action: argparse.Action, value: Any) -> Any:
    """A value of the file as argparse would have made it of words. Raises ValueError for one of another type."""
    if value is None and (action.default is None or action.required):
        return action.default
    if isinstance(action, Readable):
        return action.of_file(value)
    if isinstance(action, Switch):
        if not isinstance(value, bool):
            raise ValueError(f"got {value!r}; wanted true or false")
        return value
    if action.nargs is None and not isinstance(action, argparse._AppendAction):
        return _scalar(action, value)
    values = [_scalar(action, v) for v in (value if isinstance(value, list) else [value])]
    if not values and action.nargs == "+" and action.default != []:
        raise ValueError("got []; wanted at least one value")
    if isinstance(action.nargs, int) and len(values) != action.nargs:
        raise ValueError(f"got {value!r}; wanted {action.nargs} values")
    return values


def _scalar(action: argparse.Action, value: Any) -> Any:
    kind: Any = action.type
    try:
        if kind is None and not isinstance(value, str):
            raise ValueError
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        made = value if kind is None else kind(str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        wanted = " or ".join(map(repr, action.choices)) if action.choices else _WANTED.get(kind, "text or a number")
        raise ValueError(f"got {value!r}; wanted {wanted}") from None
    if action.choices is not None and made not in action.choices:
        near = did_you_mean(str(made), map(str, action.choices))
        raise ValueError(f"got {value!r}; wanted {' or '.join(map(repr, action.choices))}.{near}")
    return made


def _read(path: str) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, of which YAML would take the last."""

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                name = str(key.value).replace("-", "_")
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep)

    try:
        held = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise FileNotFoundError(f"config: no file {path!r}; wanted one of `--print-config`, say") from None
    except UnicodeDecodeError:
        raise ValueError(f"config: {path!r} is not UTF-8 text; wanted YAML or JSON") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise ValueError(f"config: {path!r}{line}: {error.problem}; wanted YAML, each option once") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config: {path!r}: {error}; wanted YAML or JSON") from None
    if not isinstance(held, dict):
        raise ValueError(f"config: {path!r} holds {type(held).__name__}; wanted the names of options with their values")
    return held


def _text(parser: argparse.ArgumentParser, args: argparse.Namespace) -> str:
    """All options as YAML, with their help as comments, under the titles of ``--help``."""
    formatter = parser._get_formatter()
    lines = [f"# Options of `{parser.prog} --config FILE`; one that is left out has its default."]
    for group in parser._action_groups:
        if actions := [a for a in group._group_actions if a in _options(parser)]:
            lines += ["", f"# -- {group.title}"]
        for action in actions:
            said = re.sub(r"\s+", " ", formatter._expand_help(action)) if action.help else ""
            lines += textwrap.wrap(said, 118, initial_indent="# ", subsequent_indent="#   ")
            lines.append(_line(action, getattr(args, action.dest)))
    return "\n".join(lines) + "\n"


def _line(action: argparse.Action, value: Any) -> str:
    import yaml

    if isinstance(action, Readable):
        value = action.to_file(value)
    elif value is None and action.default is not None:
        value = "none"  # as it is typed
    elif isinstance(value, (list, tuple)):
        value = value[0] if len(value) == 1 else list(value)
    dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return f"{_key(action)}: " + dumped.removesuffix("...\n").strip()  # of a scalar, YAML ends the document


class Kept:
    """A logger that keeps the options of a run in its folder, once it is sure that the run is that of the folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._folder, self._text = Path(args.out), args.as_config

    def start(self, step: int) -> None:
        write(self._folder, self._text)

    def log(self, step: int, metrics: object) -> None:
        pass

    def close(self) -> None:
        pass


def write(folder: str | Path, text: str) -> None:
    """Keep the options with a result. The step of ``--resume-from`` is left out: a repetition begins anew."""
    from monosem.data import files, remote

    files.write_text(remote.as_path(folder) / KEPT, re.sub(r"^resume_from: .*$", "resume_from: null", text, flags=re.M))
