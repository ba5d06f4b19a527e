"""Neel Nanda's one-layer dictionaries, and Kissane's of attention outputs: ``NAME.pt`` beside ``NAME_cfg.json``."""

from __future__ import annotations

from pathlib import Path

from monosem.data import sealed
from monosem.data.formats.base import Foreign, Format, Given, record_of, size_of, text_of
from monosem.data.formats.tensors import matrices, of_pickle


def _config(path: Path) -> Path:
    return path.with_name(f"{path.stem}_cfg.json")


def recognise(path: Path) -> bool:
    return path.suffix == ".pt" and path.is_file() and {"act_size", "dict_size"} <= record_of(_config(path)).keys()


def read(path: Path, given: Given) -> Foreign:
    """ReLU of x - b_dec."""
    file = _config(path)
    record = sealed.read_json(file, "folder", "the configuration of a dictionary")
    tensors = of_pickle(path, {"d_in": size_of(record, "act_size", file), "d_sae": size_of(record, "dict_size", file)})
    parameters = matrices(tensors)
    tensors.done()
    return Foreign(
        activation="relu",
        **parameters,
        centred=True,
        model=text_of(record, "model_name"),
        hook_name=text_of(record, "act_name"),
        notes={"architecture": "standard", "file": path.name},
    )


NANDA = Format("1L-Sparse-Autoencoder", "NAME.pt + NAME_cfg.json", recognise, read)
