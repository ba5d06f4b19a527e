"""``monosem hooks``: the hooks at which a model can be read."""

from __future__ import annotations

import argparse

from monosem.cli import options

# The ends of names at which dictionaries are usually trained, with what is there.
_USUAL = {
    "hook_resid_pre": "the residual stream before the layer",
    "hook_resid_post": "the residual stream behind the layer",
    "ln2.hook_normalized": "the input of the MLP, before its norm's gain: what a transcoder of the MLP reads",
    "mlp.hook_post": "the neurons of the MLP (the paper's choice)",
    "hook_mlp_out": "the output of the MLP, added to the residual stream",
    "hook_attn_out": "the output of attention, added to the residual stream",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One line per hook: its name for --hook, the width of its activations, and, for those at which dictionaries "
        "are usually trained, its contents. Hooks that hold no vector per token have no width and cannot be used."
    )
    parser.add_argument("--model", default="A", help=options.MODEL_HELP)
    options.add_model_options(parser)
    parser.add_argument(
        "--usual", action="store_true", help="list only the hooks at which dictionaries are usually trained"
    )


def run(args: argparse.Namespace) -> int:
    """Print one line per hook."""
    from monosem.data.models import load_model

    model = load_model(args.model, device_map=args.device_map)
    usual = {name: what for name in model.hook_names for end, what in _USUAL.items() if name.endswith("." + end)}
    shown = [name for name in model.hook_names if name in usual or not args.usual]
    if not shown:
        raise ValueError(f"usual: {args.model!r} has no hook of the usual names; leave out --usual to see all it has")
    wide = max(map(len, shown))
    for name in shown:
        try:
            width = f"{model.width(name):,}"
        except ValueError:  # scores of attention, scales of norms, or a hook that the forward pass does not reach
            width = "-"
        print(f"{name:{wide}}  {width:>7}  {usual.get(name, '')}".rstrip())
    return 0
