"""An autoencoder on disk: ``cfg.json`` and ``sae.safetensors``, each written whole, checked when read."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monosem.data import files
from monosem.nn import KINDS, SAE

FORMAT = 1


def save(sae: SAE, folder: str | Path, metadata: dict[str, Any] | None = None) -> Path:
    """Write an autoencoder into a folder; returns the folder.

    Args:
        sae: any monosem autoencoder.
        folder: made when absent. Files of an earlier save are replaced only once the new ones are whole.
        metadata: anything JSON can hold (``hook_name``, ``model``, …); added to ``sae.metadata``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "kind": sae.cfg.kind,
        "cfg": asdict(sae.cfg),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "metadata": {**sae.metadata, **(metadata or {})},
    }
    files.write_tensors(folder / "sae.safetensors", sae.state_dict())
    files.write_text(folder / "cfg.json", json.dumps(record, indent=2) + "\n")
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an autoencoder written by ``save``.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is cut short or altered, or of a kind or format that this version does not know.
    """
    folder = Path(folder)
    for name in ("cfg.json", "sae.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder: no {name} in {str(folder)!r}; wanted a folder written by monosem.save or `monosem train`"
            )
    try:
        record = json.loads((folder / "cfg.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "sae.safetensors", device=str(device))
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(
            f"folder: {str(folder)!r} is cut short or altered ({error}); restore it or train again"
        ) from None
    if record.get("format") != FORMAT or record.get("kind") not in KINDS:
        raise ValueError(
            f"folder: {str(folder)!r} holds format {record.get('format')!r}, kind {record.get('kind')!r}; this version "
            f"reads format {FORMAT}, kinds {', '.join(KINDS)}"
        )
    sae = KINDS[record["kind"]](**record["cfg"], device=device, dtype=getattr(torch, record["dtype"]))
    for name, value in sae.state_dict().items():
        got = tensors.get(name)
        if got is None or got.shape != value.shape:
            what = "no such tensor" if got is None else f"shape {list(got.shape)}"
            raise ValueError(f"folder: {str(folder)!r}, {name}: {what}; wanted {list(value.shape)} as cfg.json says")
    sae.load_state_dict(tensors)
    sae.metadata = record["metadata"]
    if sae.metadata.get("finished") is False:
        warnings.warn_explicit(f"folder: {str(folder)!r} holds {unfinished(sae.metadata)}", RuntimeWarning, __file__, 0)
    return sae


def unfinished(metadata: dict[str, Any]) -> str:
    """What to say of a dictionary whose training ended too early."""
    return (
        f"an unfinished dictionary: {metadata.get('steps')} of {metadata.get('steps_planned')} steps, then "
        "its activations ended; call the same training again with more of them"
    )
