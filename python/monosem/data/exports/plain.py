"""A dictionary of ours in the one notation of other libraries' (``formats.Foreign``), and small parts of writers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from monosem.data.formats import Foreign
from monosem.nn import SAE
from monosem.nn.config import JsonDict, TrainedOn
from monosem.ops.precision import as_given

Write = Callable[[Path], object]
_SAME = ("topk", "abs_topk", "batch_topk", "relu", "jumprelu", "gated", "group_max")
_BY_K = ("topk", "abs_topk", "batch_topk", "group_max")


class Refused(Exception):
    """A dictionary that a library has no form of; says what is missing there."""


def plain(sae: SAE) -> Foreign:
    """The numbers of a dictionary. Raises ``Refused`` for a kind that none of the libraries has."""
    cfg = sae.cfg
    activation = getattr(cfg, "activation", cfg.kind)  # a transcoder and Matryoshka name theirs
    if cfg.kind == "hierarchical_topk":
        activation = "topk"
    if activation not in _SAME or cfg.trained_on not in (TrainedOn.ONE, TrainedOn.PAIR):
        raise Refused(f"dictionaries of kind {cfg.kind!r}")
    is_transcoder = cfg.trained_on is TrainedOn.PAIR
    parameters, buffers = dict(sae.named_parameters()), dict(sae.named_buffers())

    def number(name: str) -> Tensor | None:
        value = parameters.get(name, buffers.get(name))
        return None if value is None else value.detach().cpu()

    hook = sae.metadata.get("hook_name")
    read_at, written_at = hook if isinstance(hook, list) and len(hook) == 2 else (hook, None)
    context, model = sae.metadata.get("context"), sae.metadata.get("model")
    return Foreign(
        activation=activation,
        W_enc=sae.W_enc_rows.detach().cpu(),
        b_enc=sae.b_enc.detach().cpu(),
        W_dec=sae.W_dec.detach().cpu(),
        b_dec=sae.b_dec.detach().cpu(),
        centred=sae.is_centred,
        k=getattr(cfg, "k", None) if activation in _BY_K else None,
        threshold=number("batches.threshold") if activation == "batch_topk" else number("threshold"),
        r_mag=number("r_mag"),
        b_mag=number("b_mag"),
        prefixes=tuple(cfg.prefixes) if getattr(cfg, "prefixes", None) else None,  # pyright: ignore[reportAttributeAccessIssue]
        W_skip=number("W_skip"),
        is_transcoder=is_transcoder,
        model=model if isinstance(model, str) else None,
        hook_name=read_at if isinstance(read_at, str) else None,
        hook_out=written_at,
        context=context if isinstance(context, int) else None,
    )


def thresholds(d: Foreign) -> Tensor:
    """What each pre-activation exceeds, [d_sae]; Refused where BatchTopK has not learnt it, or for a value below 0."""
    assert d.threshold is not None
    if d.activation == "batch_topk" and not d.threshold > 0:
        raise Refused("BatchTopK dictionary without a threshold: this one was not trained, and its threshold is 0")
    if bool((d.threshold < 0).any()):
        raise Refused(f"thresholds below 0: the least of this one is {float(d.threshold.min()):.3g}")
    return d.threshold.expand(len(d.W_enc)).clone()


@as_given
def uncentred_bias(d: Foreign) -> Tensor:
    """b_enc for a library that takes nothing off the input: ``b_enc − W_enc·b_dec``, in float64."""
    if not d.centred:
        return d.b_enc
    return (d.b_enc.double() - d.W_enc.double() @ d.b_dec.double()).to(d.b_enc.dtype)


@as_given
def centred_bias(d: Foreign) -> Tensor:
    """b_enc for a library that takes b_dec off the input."""
    if d.centred:
        return d.b_enc
    return (d.b_enc.double() + d.W_enc.double() @ d.b_dec.double()).to(d.b_enc.dtype)


def tensors(values: dict[str, Tensor | None]) -> Write:
    """A writer of a safetensors file; what is None is left out."""
    kept = {name: value.contiguous().clone() for name, value in values.items() if value is not None}
    return lambda path: save_file(kept, path)


def record(values: JsonDict) -> Write:
    """A writer of a JSON file; what is None is left out."""
    kept = {name: value for name, value in values.items() if value is not None}
    return lambda path: path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
