"""The activations that ``monosem train`` and ``monosem harvest`` read: one per token, or several side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from monosem.cli import options

if TYPE_CHECKING:
    from monosem.data.adapter import Model
    from monosem.nn import SAE

EXAMPLE = "--hook blocks.0.ln2.hook_normalized --hook-out blocks.0.hook_mlp_out"


def add_arguments(parser) -> None:
    """``--model``, ``--hook`` and ``--hook-out``."""
    several = "for a crosscoder of several"
    what = f"{options.MODEL_HELP}; {several} models: all of them"
    parser.add_argument("--model", nargs="+", default=["A"], help=what)
    options.add_model_options(parser)
    hook = f"{options.HOOK_HELP}; {several} hooks: all of them, or a pattern, 'model.layers.*.mlp'"
    parser.add_argument("--hook", nargs="+", default=[options.HOOK], help=hook)
    parser.add_argument(
        "--hook-out", metavar="HOOK", help="for a transcoder: the activation that --hook's is to predict"
    )


def hooks(args: argparse.Namespace) -> list[str]:
    """The hooks in the order of the columns."""
    return args.hook + ([] if args.hook_out is None else [args.hook_out])


def check_suits(args: argparse.Namespace, kind: type[SAE]) -> None:
    """Raise ValueError unless this kind is trained on as many activations as the options name."""
    from monosem.data.sites import is_pattern
    from monosem.nn.config import TrainedOn

    name, trained_on = kind.Config.kind, kind.Config.trained_on
    if trained_on == TrainedOn.PAIR:
        if args.hook_out is None:
            raise ValueError(
                f"--hook-out: got none; wanted the activation that --kind {name} is to predict. For example {EXAMPLE}."
            )
        for option in ("hook", "model"):
            if len(named := getattr(args, option)) > 1:
                raise ValueError(
                    f"--{option}: got {' '.join(named)}; wanted one on --kind {name}. Name the target by --hook-out."
                )
        return
    if args.hook_out is not None:
        raise ValueError(
            f"--hook-out: got {args.hook_out!r}; --kind {name} reconstructs what it reads. Leave it out, or give "
            "--kind transcoder."
        )
    one = len(args.hook) == len(args.model) == 1 and not is_pattern(args.hook[0])
    if trained_on == TrainedOn.SEVERAL and one:
        raise ValueError(
            f"--hook: got {args.hook[0]!r} of one model; wanted several activations on --kind {name}. Name more hooks "
            "(--hook HOOK HOOK), or more models (--model A B)."
        )
    if trained_on == TrainedOn.ONE and not one:
        option = "model" if len(args.model) > 1 and len(args.hook) == 1 else "hook"
        raise ValueError(
            f"--{option}: got {' '.join(getattr(args, option))}; wanted one on --kind {name}. Name one, or give --kind "
            "crosscoder."
        )


def open_models(args: argparse.Namespace, device: str | None = None) -> list[Model]:
    """The models, once it is sure that their activations can stand side by side.

    Raises:
        ValueError: an unknown hook, models with other tokenizers or of other lengths, or one of them named twice.
    """
    from monosem.data.models import load_model
    from monosem.data.sites import Sites

    if len(set(args.model)) < len(args.model):
        raise ValueError(f"--model: got {' '.join(args.model)}; wanted each model once")
    placed = {"device_map": args.device_map} if args.device_map else {"device": device}
    models = [load_model(name, **placed) for name in args.model]
    _follow_vectors(args, models)
    Sites(models, hooks(args))  # before any text is read
    lengths = {model.n_ctx for model in models}
    if len(lengths) > 1 and args.context is None and not args.tokens:
        said = ", ".join(f"{model.name} reads {model.n_ctx}" for model in models)
        raise ValueError(f"--context: got none, and {said} tokens; wanted one length. Give --context {min(lengths)}.")
    return models


def _follow_vectors(args: argparse.Namespace, models: list[Model]) -> None:
    """Vectors that were computed elsewhere bring their texts and have one hook: set both."""
    from monosem.data.protocols import of_texts

    own = [model for model in models if of_texts(model)]
    if not own:
        return
    options.own_texts(args, own[0])
    if "hook" not in args.given:
        args.hook = own[0].hook_names


def described(source: Any) -> str:
    """The hooks and models of a source of activations."""
    from monosem.data.sites import as_list

    return " of ".join(", ".join(dict.fromkeys(as_list(names))) for names in (source.hook_name, source.model_name))
