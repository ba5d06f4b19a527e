"""The settings of a kind on the command line: options for the usual ones, ``--set`` for all, and their help."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import textwrap
from dataclasses import MISSING, fields
from typing import Any

from monosem.cli import options
from monosem.cli.actions import Readable
from monosem.cli.from_dataclass import descriptions

# Options that take several values, one dictionary each, and the fields that they set.
SWEPT = {"k": "k", "l1": "l1_coefficient", "l0": "l0_coefficient", "target_l0": "target_l0"}
OPTIONS = SWEPT | {"prefixes": "prefixes", "decoder_norm": "decoder_norm"}
_SHAPE = ("d_in", "d_sae", "d_out", "n_sources")
_DEFAULTS: dict[str, list[Any]] = {"k": [16], "l1": [1e-3]}


class Settings(Readable):
    """NAME=VALUE, or in a file a dictionary, where a list has a value for each dictionary to train."""

    def of_file(self, value: Any) -> list[str]:
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"got {value!r}; wanted settings of the kind by name, {{name: value}}")
        return [f"{name}={json.dumps(v if isinstance(v, list) else [v])[1:-1]}" for name, v in value.items()]

    def to_file(self, value: list[str]) -> dict[str, Any]:
        alone = lambda v: v[0] if len(v) == 1 and not isinstance(v[0], list) else v
        return {name: alone(values) for name, values in map(_pair, value)}


def add_arguments(parser) -> None:
    """``--k``, ``--l1`` and the others, and ``--set``."""
    parser.add_argument("--k", type=int, nargs="+", default=_DEFAULTS["k"], help="active features per token")
    parser.add_argument(
        "--l1",
        type=float,
        nargs="+",
        default=_DEFAULTS["l1"],
        help="coefficient of the sum of activations; the squared error is averaged over the width",
    )
    parser.add_argument("--l0", type=float, nargs="+", help="coefficient of the number of active features")
    parser.add_argument("--target-l0", type=float, nargs="+", help="number of active features that the penalty aims at")
    parser.add_argument("--prefixes", type=int, nargs="+", help="sizes of the nested dictionaries; the last is --d-sae")
    parser.add_argument("--decoder-norm", choices=("unit", "free"), help="norms of the decoder's rows")
    parser.add_argument(
        "--set",
        action=Settings,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="any setting of the kind (--help lists them); several values after commas: one dictionary each",
    )


def read(args: argparse.Namespace, kind: str) -> list[dict[str, Any]]:
    """Fields of the kind's configuration, one set per dictionary to train.

    Raises:
        ValueError: a setting that the kind does not have, or one that is given twice.
    """
    from monosem.nn import registry

    known = [f.name for f in fields(registry.find(kind).Config) if f.name not in _SHAPE]
    axes: dict[str, list[Any]] = {}
    for option, field in OPTIONS.items():
        value = getattr(args, option)
        if field not in known:
            options.refuse(args, [option], f"on --kind {kind}, which has {', '.join(known)}")
        elif value is not None:
            axes[field] = value if option in SWEPT else [value]
    for name, values in map(_pair, args.set):
        if name in _SHAPE:
            raise ValueError(
                f"--set: got {name}; wanted other fields: hooks and models decide the widths, --d-sae the features"
            )
        option = next((option for option, field in OPTIONS.items() if field == name), None)
        if option is not None and option in args.given:
            raise ValueError(f"--set: got {name}, which --{option.replace('_', '-')} sets too; wanted one of them")
        if name not in known:
            raise ValueError(f"--set: got {name}; wanted a setting of --kind {kind}: {', '.join(known)}")
        axes[name] = values
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def refuse_without_effect(args: argparse.Namespace, configurations) -> None:
    """ValueError for a setting that was given and has no effect beside the others."""
    inert = set.intersection(*(set(cfg.without_effect) for cfg in configurations))
    options.refuse(args, [o for o, field in OPTIONS.items() if field in inert], _beside(configurations[0]))
    for name, values in map(_pair, args.set):
        if name in inert:
            got = ", ".join(map(str, values))
            raise ValueError(f"--set: got {name}={got}; it has no effect {_beside(configurations[0])}. Leave it out.")
    if not any(cfg.has_penalty for cfg in configurations):
        options.refuse(args, ["sparsity_warmup"], _beside(configurations[0]))


def _beside(cfg) -> str:
    return f"on {cfg.describe()}"


def _pair(text: str) -> tuple[str, list[Any]]:
    """``p=0.5,0.6`` as a field and its values: JSON, or else strings."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set: got {text!r}; wanted NAME=VALUE")
    try:
        return name, json.loads(f"[{value}]")
    except json.JSONDecodeError:
        return name, value.split(",")


def kinds_text() -> str:
    """The registered kinds, a line each, with their settings: from the classes' modules and configurations."""
    from monosem.nn.registry import KINDS

    lines = ["kinds, and their settings:"]
    for kind, cls in KINDS.items():
        said = inspect.getdoc(inspect.getmodule(cls)) or inspect.getdoc(cls) or ""
        lines += ["", f"  {kind:13} {said.splitlines()[0] if said else ''}".rstrip()]
        described = descriptions(cls.Config)
        for f in fields(cls.Config):
            if f.name not in _SHAPE:
                option = next((f"--{o.replace('_', '-')}" for o, field in OPTIONS.items() if field == f.name), f.name)
                default = (
                    "" if any(f.default is v for v in (MISSING, None, False)) else f" (default: {_shown(f.default)})"
                )
                text = f"{option}: {described.get(f.name, '').rstrip('.')}{default}"
                lines += textwrap.wrap(text, 110, initial_indent="      ", subsequent_indent="          ")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
