"""An autoencoder on disk: ``cfg.json`` and ``sae.safetensors``, written whole, checked byte for byte when read."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from monosem.data import files, kinds, sealed
from monosem.nn import KINDS, SAE, registry
from monosem.nn.config import SAEConfig, from_dict

FORMAT = 1
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
_WEIGHTS, _RECORD = "sae.safetensors", "cfg.json"
_WANTED = "a dictionary written by monosem.save or `monosem train`"
_ADVICE = "restore it or train again"


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
    sealed.write(folder / _RECORD, record, {_WEIGHTS: files.tensor_writer(sae.state_dict())}, indent=2)
    return folder


def load(folder: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an autoencoder written by ``save``.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is cut short or altered, of a kind or format that this version does not know, or holds
            NaN or Inf.
    """
    folder = Path(folder)
    for name in (_RECORD, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"folder: no {name} in {str(folder)!r}; wanted a folder written by monosem.save or `monosem train`."
                + kinds.describe(folder)
            )
    record, digests = sealed.read(folder / _RECORD, "folder", _WANTED)
    config, dtype, metadata = _described(record, folder / _RECORD)
    path = folder / _WEIGHTS
    sealed.check(path, digests, "folder", _ADVICE)
    tensors = sealed.read_tensors(path, "folder", _ADVICE, str(device))
    try:  # shapes only: memory is taken once the file is known to fill it
        with torch.device("meta"):
            expected = registry.build(config, device="meta", dtype=dtype).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"folder: {str(folder / _RECORD)!r}: no autoencoder has {config} ({str(error).splitlines()[0]}). "
            f"{_ADVICE.capitalize()}."
        ) from None
    for name, value in expected.items():
        got = tensors.get(name)
        if got is None or got.shape != value.shape or not got.is_floating_point():
            what = "no such tensor" if got is None else f"{got.dtype} {list(got.shape)}"
            raise ValueError(f"folder: {str(path)!r}, {name}: {what}; wanted {list(value.shape)} as {_RECORD} says")
        if not bool(got.isfinite().all()):
            raise ValueError(
                f"folder: {str(path)!r}, {name}: {int((~got.isfinite()).sum()):,} of {got.numel():,} entries are NaN "
                f"or Inf; wanted finite weights. {_ADVICE.capitalize()}."
            )
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"folder: {str(path)!r} holds {', '.join(unknown)}; wanted only {', '.join(expected)}")
    sae = registry.build(config, device=device, dtype=dtype)
    sae.load_state_dict(tensors)
    sae.eval()  # BatchTopK learns its threshold from losses only while it trains
    sae.metadata = metadata
    if sae.metadata.get("finished") is False:
        warnings.warn_explicit(f"folder: {str(folder)!r} holds {unfinished(sae.metadata)}", RuntimeWarning, __file__, 0)
    return sae


def _described(record: dict[str, Any], path: Path) -> tuple[SAEConfig, torch.dtype, dict[str, Any]]:
    """(configuration, type, metadata) in a ``cfg.json``; ValueError, naming it, if they are not there."""
    kind = record.get("kind")
    if record.get("format") != FORMAT or not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"folder: {str(path)!r} holds format {record.get('format')!r:.50}, kind {kind!r:.50}; this version "
            f"reads format {FORMAT}, kinds {', '.join(KINDS)}. A kind of your own has to be registered first: import "
            "the module that calls monosem.register (`--import MODULE`)."
        )
    dtype, metadata, values = _DTYPES.get(str(record.get("dtype"))), record.get("metadata"), record.get("cfg")
    if dtype is None or not isinstance(metadata, dict) or not isinstance(values, dict):
        raise ValueError(
            f"folder: {str(path)!r} lacks dtype, metadata or cfg, or holds another kind of value there; wanted "
            f"{_WANTED}. {_ADVICE.capitalize()}."
        )
    try:
        return from_dict(KINDS[kind].Config, values), dtype, metadata
    except (TypeError, ValueError) as error:
        raise ValueError(f"folder: {str(path)!r}: {error}. {_ADVICE.capitalize()}.") from None


def unfinished(metadata: dict[str, Any]) -> str:
    """Description of a dictionary whose training ended too early."""
    return (
        f"an unfinished dictionary: {metadata.get('steps')} of {metadata.get('steps_planned')} steps, then "
        "its activations ended; call the same training again with more of them"
    )
