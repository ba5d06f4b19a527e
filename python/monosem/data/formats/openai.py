"""OpenAI's dictionaries of GPT-2 (``sparse_autoencoder``): a state_dict with the name of its activation."""

from __future__ import annotations

from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given, refuse
from monosem.data.formats.tensors import linears, of_pickle, peek
from monosem.data.normalised import LAYER_NORM

_KEYS = {"pre_bias", "latent_bias", "encoder.weight", "decoder.weight"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def recognise(path: Path) -> bool:
    return peek(path) >= _KEYS


def read(path: Path, given: Given) -> Foreign:
    """ReLU on the activations themselves, or TopK on activations that are normalised token by token."""
    tensors = of_pickle(path)
    kind, settings = tensors.other("activation") or "ReLU", tensors.other("activation_state_dict") or {}
    if kind not in ("ReLU", "TopK"):
        refuse(path, "activation", kind, "'ReLU' or 'TopK'")
    k = settings.get("k") if isinstance(settings, dict) else None
    if kind == "TopK" and (not isinstance(k, int) or isinstance(k, bool)):
        refuse(path, "activation_state_dict.k", k, "a positive integer")
    after = settings.get("postact_fn", "ReLU") if isinstance(settings, dict) else "ReLU"
    if kind == "TopK" and after != "ReLU":
        refuse(path, "activation_state_dict.postact_fn", after, "'ReLU'")
    parameters = linears(tensors, b_enc="latent_bias", b_dec="pre_bias")
    tensors.done(*_STATISTICS)
    return Foreign(
        activation="topk" if kind == "TopK" else "relu",
        **parameters,
        centred=True,
        k=k if kind == "TopK" else None,
        normalisation=LAYER_NORM if kind == "TopK" else None,
        notes={"architecture": kind, "file": path.name},
    )


OPENAI = Format("OpenAI's sparse_autoencoder", "a .pt file with pre_bias and latent_bias", recognise, read)
