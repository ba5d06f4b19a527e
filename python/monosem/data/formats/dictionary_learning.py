"""dictionary_learning: ``ae.pt``, a state_dict, beside (or below) ``config.json``."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monosem.data import sealed
from monosem.data.formats.base import Foreign, Format, Given, context_of, record_of, refuse, text_of
from monosem.data.formats.tensors import Tensors, linears, matrices, of_pickle
from monosem.nn.config import JsonDict

CONFIG, WEIGHTS = "config.json", "ae.pt"


def _files(path: Path) -> tuple[Path, Path]:
    """(weights, configuration) of a folder, or of one of its files: the last weights, or those of a checkpoint."""
    if path.suffix != ".pt":
        return path / WEIGHTS, path / CONFIG
    beside = path.parent / CONFIG
    return path, beside if beside.is_file() else path.parent.parent / CONFIG


def recognise(path: Path) -> bool:
    weights, config = _files(path)
    if path.suffix == ".pt":  # other files may end so
        return weights.is_file() and isinstance(record_of(config).get("trainer"), dict)
    return weights.is_file()


def read(path: Path, given: Given) -> Foreign:
    weights, config = _files(path)
    record = sealed.read_json(config, "folder", "the configuration of a trainer of dictionary_learning")
    trainer, buffer = record.get("trainer"), record.get("buffer")
    if not isinstance(trainer, dict):
        refuse(config, "trainer", trainer, "the settings of a trainer")
    name = trainer.get("dict_class")
    if name not in _CLASSES:
        refuse(config, "dict_class", name, f"one of {', '.join(_CLASSES)}")
    sizes = {"d_in": trainer.get("activation_dim"), "d_sae": trainer.get("dict_size")}
    tensors = of_pickle(weights, {axis: size for axis, size in sizes.items() if isinstance(size, int)})
    if "optimizer" in tensors:
        refuse(weights, "optimizer", "the state of an unfinished training", f"the {WEIGHTS} of its end")
    parts = _CLASSES[name](tensors, trainer)
    tensors.done()
    told = {key: trainer[key] for key in ("layer", "submodule_name", "trainer_class") if trainer.get(key) is not None}
    return Foreign(
        **parts,
        model=text_of(trainer, "lm_name"),
        hook_name=_hook(trainer),
        context=context_of(buffer if isinstance(buffer, dict) else {}, "ctx_len"),
        notes={"architecture": name, "file": weights.name} | told,
    )


def _autoencoder(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    return {"activation": "relu", "centred": True} | linears(tensors, b_dec="bias")


def _autoencoder_new(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    return {"activation": "relu", "centred": False} | linears(tensors)


def _topk(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    tensors.other("threshold")  # its encode chooses by k unless it is asked for the threshold
    return {"activation": "topk", "centred": True, "k": _k(tensors, trainer)} | linears(tensors, b_dec="b_dec")


def _batch_topk(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    return _by_threshold(tensors, trainer) | linears(tensors, b_dec="b_dec")


def _matryoshka(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    sizes = tensors.other("group_sizes")
    sizes = sizes.tolist() if isinstance(sizes, Tensor) else trainer.get("group_sizes")
    if not isinstance(sizes, list) or not all(isinstance(m, int) and m > 0 for m in sizes):
        refuse(tensors.path, "group_sizes", sizes, "positive integers")
    prefixes = tuple(sum(sizes[: i + 1]) for i in range(len(sizes)))
    parts = _by_threshold(tensors, trainer) | matrices(tensors)
    if prefixes[-1] != tensors.sizes["d_sae"]:
        refuse(tensors.path, "group_sizes", sizes, f"sizes with the sum d_sae={tensors.sizes['d_sae']}")
    return parts | {"prefixes": prefixes}


def _gated(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    magnitudes = {"r_mag": tensors.take("r_mag", "d_sae"), "b_mag": tensors.take("mag_bias", "d_sae")}
    parameters = linears(tensors, b_enc="gate_bias", b_dec="decoder_bias")
    return {"activation": "gated", "centred": True} | parameters | magnitudes


def _jumprelu(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    threshold = tensors.take("threshold", "d_sae")
    return {"activation": "jumprelu", "centred": False, "threshold": threshold} | matrices(tensors)


def _by_threshold(tensors: Tensors, trainer: JsonDict) -> JsonDict:
    threshold = tensors.take("threshold")
    if threshold < 0:
        wanted = "0 or more: it was never set, for training ended before threshold_start_step. Train on, or set it"
        refuse(tensors.path, "threshold", float(threshold), wanted)
    return {"activation": "batch_topk", "centred": True, "k": _k(tensors, trainer), "threshold": threshold}


def _k(tensors: Tensors, trainer: JsonDict) -> int:
    k = tensors.number("k") if "k" in tensors else trainer.get("k")
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        refuse(tensors.path, "k", k, "a positive integer")
    return k


_CLASSES = {
    "AutoEncoder": _autoencoder,
    "AutoEncoderNew": _autoencoder_new,
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "GatedAutoEncoder": _gated,
    "JumpReluAutoEncoder": _jumprelu,
}


def _hook(trainer: JsonDict) -> str | None:
    """The hook, where the name of the submodule says which (``resid_post_layer_8``)."""
    layer, name = trainer.get("layer"), text_of(trainer, "submodule_name") or ""
    return f"blocks.{layer}.hook_resid_post" if "resid_post" in name and isinstance(layer, int) else None


DICTIONARY_LEARNING = Format("dictionary_learning", f"{WEIGHTS} + {CONFIG}", recognise, read)
