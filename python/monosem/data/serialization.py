"""An autoencoder on disk: ``cfg.json`` and ``sae.safetensors``, written whole, checked byte for byte when read.

``load`` also reads what other libraries wrote (``data/formats``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from monosem.data import files, formats, kinds, sealed
from monosem.data.formats import Given
from monosem.nn import KINDS, SAE, registry
from monosem.nn.config import SAEConfig, from_dict

FORMAT = 1
_DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
_FLOATS = ("F", "BF")  # how safetensors' names of floating types begin
_CHECKED = 1 << 21  # entries at a time: the check takes 7 bytes for each
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
    return save_by(sae, folder, metadata, files.tensor_writer(sae.state_dict()))


def save_by(
    sae: SAE, folder: str | Path, metadata: dict[str, Any] | None, write_tensors: Callable[[Path], object]
) -> Path:
    """``save`` where ``write_tensors(path)`` writes the safetensors file, of all features of ``sae.cfg``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": FORMAT,
        "kind": sae.cfg.kind,
        "cfg": asdict(sae.cfg),
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "metadata": {**sae.metadata, **(metadata or {})},
    }
    sealed.write(folder / _RECORD, record, {_WEIGHTS: write_tensors}, indent=2)
    return folder


def load(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    k: int | None = None,
    input_scale: float | None = None,
    inputs_normalised: bool | None = False,
) -> SAE:
    """Read an autoencoder written by ``save``, or by another library (``formats.FORMATS``).

    ``metadata["loaded_from"]`` of another library's names its format, and what was folded into the weights.

    Args:
        folder: a folder, or a file where a format is one file.
        k, input_scale: of another library's, where its files do not have them: active features per token; the factor
            that its training put on the activations, which is folded.
        inputs_normalised: of another library's, trained on activations that are normalised token by token: True says
            that the caller does so before ``encode``, and undoes it after ``decode``; None: that the caller goes by
            ``metadata["loaded_from"]["inputs_normalised"]``, as the commands do.

    Raises:
        FileNotFoundError: the folder or one of its files is missing, or holds no dictionary of a known format.
        ValueError: a file is cut short or altered, of a kind or format that this version does not know, or holds
            NaN or Inf; or its dictionary computes something that ours cannot.
    """
    folder, given = Path(folder), Given(k, input_scale, inputs_normalised)
    if not _is_own(folder):
        if (found := formats.find(folder)) is None:
            raise formats.unknown(folder)
        return formats.read(*found, given, device)
    if given not in (Given(), Given(inputs_normalised=None)):
        raise ValueError(
            f"k, input_scale, inputs_normalised: got {given}; wanted none of them, for {str(folder)!r} was written by "
            "monosem. Leave them out."
        )
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
    tensors = sealed.tensor_shapes(path, "folder", _ADVICE)
    try:  # shapes only: memory is taken once the file is known to fill it
        with torch.device("meta"):
            # Not drawn: to draw on meta, PyTorch imports its compiler, which takes a second or more.
            expected = registry.build(config, device="meta", dtype=dtype, drawn=False).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"folder: {str(folder / _RECORD)!r}: no autoencoder has {config} ({str(error).splitlines()[0]}). "
            f"{_ADVICE.capitalize()}."
        ) from None
    for name, value in expected.items():
        kind, shape = tensors.get(name, ("", None))
        if shape != list(value.shape) or not kind.startswith(_FLOATS):
            what = "no such tensor" if shape is None else f"{kind} {shape}"
            raise ValueError(f"folder: {str(path)!r}, {name}: {what}; wanted {list(value.shape)} as {_RECORD} says")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"folder: {str(path)!r} holds {', '.join(unknown)}; wanted only {', '.join(expected)}")
    sae = registry.build(config, device=device, dtype=dtype, drawn=False)
    weights = sae.state_dict()
    with torch.no_grad():
        sealed.copy_tensors(path, weights)
    for name, value in weights.items():
        bad = sum(int((~part.isfinite()).sum()) for part in value.reshape(-1).split(_CHECKED))
        if bad:
            raise ValueError(
                f"folder: {str(path)!r}, {name}: {bad:,} of {value.numel():,} entries are NaN or Inf; wanted finite "
                f"weights. {_ADVICE.capitalize()}."
            )
    sae.eval()  # BatchTopK learns its threshold from losses only while it trains
    sae.metadata = metadata
    if sae.metadata.get("finished") is False:
        warnings.warn_explicit(f"folder: {str(folder)!r} holds {unfinished(sae.metadata)}", RuntimeWarning, __file__, 0)
    return sae


def _is_own(folder: Path) -> bool:
    """Whether a folder was written by ``save``, or was and is damaged: its files are there, and of no other format."""
    if "kind" in formats.record_of(folder / _RECORD):
        return True
    return (folder / _WEIGHTS).is_file() and formats.find(folder) is None


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
