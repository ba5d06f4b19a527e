"""Dictionaries that other libraries wrote: one short file per format, and their order here.

A format tells its folders or files by names and keys. Those whose names say more come first.
"""

from __future__ import annotations

from pathlib import Path

import torch

from monosem.data import kinds
from monosem.data.formats.base import Foreign, Format, Given, record_of
from monosem.data.formats.build import build
from monosem.data.formats.circuit_tracer import CIRCUIT_TRACER
from monosem.data.formats.dictionary_learning import DICTIONARY_LEARNING
from monosem.data.formats.gemma_scope import GEMMA_SCOPE, GEMMA_SCOPE_2
from monosem.data.formats.goodfire import GOODFIRE
from monosem.data.formats.llama_scope import LLAMA_SCOPE, LLAMA_SCOPE_R1
from monosem.data.formats.nanda import NANDA
from monosem.data.formats.openai import OPENAI
from monosem.data.formats.qwen_scope import QWEN_SCOPE
from monosem.data.formats.refused import CROSS_LAYER, TEMPORAL
from monosem.data.formats.sae_lens import SAE_LENS
from monosem.data.formats.sparsify import SPARSIFY
from monosem.nn import SAE

FORMATS: tuple[Format, ...] = (
    SAE_LENS,
    SPARSIFY,
    DICTIONARY_LEARNING,
    GEMMA_SCOPE,
    GEMMA_SCOPE_2,
    LLAMA_SCOPE,
    LLAMA_SCOPE_R1,
    QWEN_SCOPE,
    GOODFIRE,
    CIRCUIT_TRACER,
    NANDA,
    OPENAI,  # the only one that has to look into a file
    CROSS_LAYER,
    TEMPORAL,
)
_SUFFIXES = (".pt", ".pth", ".npz", ".safetensors")
_SHOWN = 12  # files that a message names

__all__ = ["FORMATS", "Foreign", "Format", "Given", "find", "read", "record_of", "unknown"]


def find(path: Path) -> tuple[Format, Path] | None:
    """The format of a folder or file, and what it reads: the folder, or the only file in it that has a format.

    Raises:
        ValueError: the folder holds several dictionaries.
    """
    for form in FORMATS:
        if form.recognise(path):
            return form, path
    if not path.is_dir():
        return None
    inside = [p for p in sorted(path.iterdir()) if p.is_file() and p.suffix in _SUFFIXES]
    found = [(form, p) for p in inside if (form := next((f for f in FORMATS if f.recognise(p)), None))]
    if len(found) > 1:
        names = ", ".join(p.name for _, p in found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
        raise ValueError(f"folder: {str(path)!r} holds {len(found)} dictionaries: {names}; wanted one. Name the file.")
    return found[0] if found else None


def read(form: Format, path: Path, given: Given, device: str | torch.device = "cpu") -> SAE:
    """The dictionary that a format reads.

    Raises:
        ValueError: a file that is damaged or not as the format says, an architecture that is not known, a normalisation
            of inputs that cannot be folded, or something given that the dictionary has no use for.
    """
    foreign = form.read(path, given)
    _check_given(foreign, given, path)
    sae = build(foreign, device)
    sae.metadata["loaded_from"] = {"format": form.name} | sae.metadata["loaded_from"]
    return sae


def _check_given(foreign: Foreign, given: Given, path: Path) -> None:
    if foreign.normalisation and given.inputs_normalised is False:
        raise ValueError(
            f"inputs_normalised: {str(path)!r} was trained on activations that are normalised token by token "
            f"({foreign.normalisation}), which weights cannot contain; wanted inputs_normalised=True in monosem.load, "
            "from a caller who normalises the activations before encode and undoes it after decode (monosem.check and "
            "the commands do so themselves)"
        )
    if given.inputs_normalised and not foreign.normalisation:
        raise ValueError(f"inputs_normalised: got True; {str(path)!r} reads activations as they are. Leave it out.")
    if given.input_scale is not None and given.input_scale != foreign.scale_in:
        raise ValueError(f"input_scale: got {given.input_scale!r}; {str(path)!r} has its scale itself. Leave it out.")
    if given.k is not None and given.k != foreign.k:
        raise ValueError(f"k: got {given.k!r}; {str(path)!r} says {foreign.k}. Leave it out.")


def unknown(path: Path) -> Exception:
    """The error for a path that no format recognises: what is there, and which formats exist."""
    known = "; ".join(f"{form.name} ({form.layout})" for form in FORMATS)
    wanted = f"a folder written by monosem.save or `monosem train`, or a dictionary of {known}"
    if not path.exists():
        hint = ""
        if not path.is_absolute() and len(path.parts) == 2:
            hint = " A repository of Hugging Face is read by monosem.from_pretrained(repo, name)."
        return FileNotFoundError(f"folder: no folder or file {str(path)!r}; wanted {wanted}.{hint}")
    if path.is_file():
        return ValueError(f"folder: {str(path)!r} is a file of no known format; wanted {wanted}")
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    there = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "") or "nothing"
    return FileNotFoundError(
        f"folder: no dictionary in {str(path)!r}, which holds {there}; wanted {wanted}.{kinds.describe(path)}"
    )
