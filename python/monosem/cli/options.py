"""Options that several commands share, worded once."""

from __future__ import annotations

import argparse
from collections.abc import Callable

HOOK = "blocks.0.mlp.hook_post"
FOLDER = (
    "a dictionary written by `monosem train`, monosem.save, or another library (SAELens, Gemma Scope, ...: "
    "docs/howto/load.md); negative:RUN, its features where they are below 0 (of AbsTopK); or neurons:MODEL, the "
    "neurons of a model"
)
TEXT_HELP = (
    "JSON lines with 'text' and 'source', Parquet, CSV, plain text (.txt), or arrays of tokens (.npy), packed or "
    "not (.gz, .xz, .zst); a folder or a pattern of them; 'hf:NAME?name=CONFIGURATION&split=SPLIT', a dataset of "
    "Hugging Face; or shipped text: 'sample', in which rare kinds are rare, and 'sample:rich', which has more of them. "
    "TEXT?column=NAME&rows=N names the column (of text, token ids or messages of a chat) and reads the first N rows"
)
MODEL_HELP = (
    "A or B (shipped), a folder from `monosem lm train`, a model of Hugging Face (name, folder or .gguf file), a "
    "TransformerLens name (lens:NAME where both have it), or a folder of monosem.save_vectors (one vector per text)"
)
HOOK_HELP = (
    "hook name in TransformerLens notation, or a module of a Hugging Face model: model.layers.3.mlp, its output, "
    "model.layers.3.mlp:in, its input"
)


NORMS = (AS_TRAINED, AS_HARVESTED) = "as trained", "as harvested"  # of data/norm_limit.py, which imports PyTorch
# Fixed by activations on disk.
READS = (
    *("model", "model_dtype", "revision", "device_map", "hook", "hook_out"),
    "text",
    "tokens",
    "split",
    "contexts",
    "context",
    "skip_positions",
    "skip_tokens",
)


def add_text(parser, *, default: str | None = None) -> None:
    """``--text``; without a default, the text that a dictionary was trained on."""
    note = " (default: as trained, or else the shipped text)" if default is None else ""
    parser.add_argument("--text", default=default, help=TEXT_HELP + note)


def add_reading(parser, split: str) -> None:
    """``--text``, ``--split``, ``--context`` of a command that reads text: as trained, unless given."""
    add_text(parser)
    add_split(parser, split)
    add_context(parser, " (default: as trained, or else the longest that the model reads, 2,048 at most)")


def refuse(args: argparse.Namespace, names, why: str) -> None:
    """ValueError for the first of ``names`` that was given: options without effect are not accepted."""
    for name in names:
        if name in getattr(args, "given", ()):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option}: got {getattr(args, name)!r}; it has no effect {why}. Leave it out.")


def own_texts(args: argparse.Namespace, model) -> None:
    """Set ``args.text`` to the texts of vectors that were computed elsewhere; what asks for others is refused."""
    why = f"beside {model.name}, which holds vectors of its own texts"
    names = ("text", "context", "stream", "skip_positions", "skip_tokens")
    refuse(args, (*names, "tokens") if isinstance(getattr(args, "tokens", None), str) else names, why)
    args.text = str(model.texts_path)


def add_import(parser) -> None:
    """``--import``, of every command."""
    parser.add_argument(
        "--import",
        dest="imports",
        metavar="MODULE",
        action="append",
        help="import this module first: it registers kinds of dictionaries with monosem.register",
    )


def add_kind(parser, what: str) -> None:
    """``--kind``. It is checked when it is used: the registry needs PyTorch, which ``--help`` does without."""
    parser.add_argument("--kind", metavar="KIND", default="topk", help=f"{what}, or one that --import registers")


def add_text_below(parser: argparse.ArgumentParser, text: Callable[[], str]) -> None:
    """Text below the help, made only when the help is shown: it may need PyTorch, which takes a second to import."""
    shown = parser.format_help
    parser.format_help = lambda: f"{shown()}\n{text()}"


def add_model(parser, *, as_trained: bool = False) -> None:
    """``--model``, its options, and ``--hook``; with ``as_trained``, those of a dictionary on disk by default."""
    note = " (default: as trained)" if as_trained else ""
    parser.add_argument("--model", default=None if as_trained else "A", help=MODEL_HELP + note)
    add_model_options(parser)
    parser.add_argument("--hook", default=None if as_trained else HOOK, help=HOOK_HELP + note)


def add_model_options(parser) -> None:
    """``--model-dtype``, ``--revision`` and ``--device-map``, of models of Hugging Face."""
    dtype = "dtype of a model of Hugging Face: bf16, fp16 or fp32 (default: as it is stored)"
    parser.add_argument("--model-dtype", choices=("bf16", "fp16", "fp32"), help=dtype)
    parser.add_argument("--revision", help="branch, tag or commit of a model of Hugging Face (default: the newest)")
    where = "devices of a model of Hugging Face: auto, cuda, cuda:1, … (default: with the dictionary, or the CPU)"
    parser.add_argument("--device-map", metavar="MAP", help=where)


def name_model(args: argparse.Namespace) -> None:
    """Put ``--revision`` and ``--model-dtype`` into the name of the model, by which files keep it.

    Raises:
        ValueError: one of them without ``--model``, or beside a name that says otherwise.
    """
    revision, dtype = getattr(args, "revision", None), getattr(args, "model_dtype", None)
    if revision is None and dtype is None:
        return
    from monosem.data.model_names import ModelName

    if args.model is None:
        option, value = ("revision", revision) if revision is not None else ("model-dtype", dtype)
        raise ValueError(
            f"--{option}: got {value!r} and no model; wanted --model beside it. Leave it out: the model is then loaded "
            "as the dictionary was trained on it."
        )
    named = [str(ModelName.parse(name).with_options(revision, dtype)) for name in as_list(args.model)]
    args.model = named if isinstance(args.model, list) else named[0]


def as_list(value) -> list:
    """A list of one value, or of several."""
    return value if isinstance(value, list) else [value]


def add_sites(parser) -> None:
    """``--model``, ``--hook``, ``--hook-out`` and ``--source`` of a dictionary on disk."""
    add_model(parser, as_trained=True)
    parser.add_argument(
        "--hook-out", metavar="HOOK", help="of a transcoder: the hook that it predicts (default: as trained)"
    )
    what = "of a crosscoder: the number of the source whose decoder is looked at (default: 0)"
    parser.add_argument("--source", type=int, metavar="N", help=what)


def add_split(parser, default: str) -> None:
    """``--split``: which part of the text."""
    what = "part of the text; 2 %% of each source are held out"
    parser.add_argument("--split", choices=("train", "held_out", "all"), default=default, help=what)


def add_contexts(parser) -> None:
    """Inputs of activations: ``--text`` or ``--tokens``, ``--split``, ``--contexts``."""
    source = parser.add_mutually_exclusive_group()
    add_text(source, default="sample")
    source.add_argument("--tokens", metavar="FILE.npy", help="an array of tokens [rows, n_ctx] or [n] instead of text")
    add_split(parser, "train")
    parser.add_argument("--contexts", type=int, metavar="N", help="use N contexts, evenly spaced (default: all)")
    add_context(parser)


def add_context(parser, default: str = " (default: the longest that the model reads, 2,048 at most)") -> None:
    """``--context``: tokens per row of text."""
    what = f"tokens per context, BOS included{default}"
    parser.add_argument("--context", type=int, metavar="N", help=what)


def add_skipped(parser, *, kept: str = "", norm: str | None = None) -> None:
    """``--skip-positions``, ``--skip-tokens`` and ``--skip-norm``.

    Args:
        kept: how tokens left out are treated, for ``--help``.
        norm: the default of the limit on the norm, of ``NORMS``; None: none.
    """
    what = f"number of positions left out at the start of each context{kept}; 1 is BOS"
    parser.add_argument("--skip-positions", type=int, default=1, metavar="N", help=what)
    parser.add_argument(
        "--skip-tokens",
        nargs="*",
        type=_token,
        default=("bos", "pad"),
        metavar="ID",
        help=f"tokens left out at every position{kept}: ids, bos, eos, pad, special (all that the tokenizer marks so); "
        "without a value: none",
    )
    parser.add_argument(
        "--skip-norm",
        type=_multiple,
        default=norm,
        metavar="X",
        help=f"leave out tokens whose activation has a norm above X times the median{kept}, such as attention sinks; "
        f"none: no token (default: {norm or 'none'})",
    )


def _token(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _multiple(text: str) -> float | str | None:
    if text in NORMS:  # the default, which argparse converts too
        return text
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; wanted a multiple of the median norm, or none") from None
