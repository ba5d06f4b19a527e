"""SAELens: ``cfg.json`` and ``sae_weights.safetensors``, of version 6 and of those before."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from monosem.data import sealed
from monosem.data.formats.base import Foreign, Format, Given, context_of, number_of, refuse, size_of, text_of
from monosem.data.formats.tensors import Tensors, of_safetensors
from monosem.data.normalised import LAYER_NORM, UNIT_NORM
from monosem.nn.config import JsonDict

CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
_TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_ACTIVATIONS = {
    "standard": "relu",
    "topk": "topk",
    "abstopk": "abs_topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    **_TRANSCODERS,
}
_BY_TOKEN = (LAYER_NORM, UNIT_NORM)  # how the activations of each token may be normalised
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}


def recognise(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read(path: Path, given: Given) -> Foreign:
    """The dictionary in a folder. BatchTopK and Matryoshka are saved there as JumpReLU."""
    file = path / CONFIG
    cfg, where = _current(sealed.read_json(file, "folder", "the configuration of a SAELens dictionary"), file)
    architecture = cfg.get("architecture")
    if architecture not in _ACTIVATIONS:
        refuse(file, "architecture", architecture, f"one of {', '.join(_ACTIVATIONS)}")
    activation, is_transcoder = _ACTIVATIONS[architecture], architecture in _TRANSCODERS
    centred = cfg.get("apply_b_dec_to_input", not is_transcoder)
    if not isinstance(centred, bool) or (centred and is_transcoder):
        wanted = "false, for b_dec is as wide as its output" if is_transcoder else "true or false"
        refuse(file, "apply_b_dec_to_input", centred, wanted)
    sizes = {"d_in": size_of(cfg, "d_in", file), "d_sae": size_of(cfg, "d_sae", file)}
    sizes["d_out"] = size_of(cfg, "d_out", file) if is_transcoder else sizes["d_in"]
    tensors = of_safetensors(path / WEIGHTS, sizes)
    scale, normalisation = _scaled(cfg, path, given)
    if normalisation and is_transcoder:
        refuse(file, "normalize_activations", normalisation, "'none' with a transcoder, whose output is not normalised")
    parts = _activation(tensors, activation)
    W_enc, W_dec = tensors.take("W_enc", "d_in", "d_sae").T, tensors.take("W_dec", "d_sae", "d_out")
    if (factor := _finetuned(tensors, cfg)) is not None:
        W_dec = W_dec.double() * factor.double()[:, None]
    b_dec = tensors.take("b_dec", "d_out")
    W_skip = tensors.take("W_skip", "d_out", "d_in") if "skip" in architecture else None
    tensors.done()
    return Foreign(
        activation=activation,
        W_enc=W_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=W_skip,
        centred=centred,
        k=size_of(cfg, "k", file) if activation in ("topk", "abs_topk") else None,
        is_transcoder=is_transcoder,
        scale_in=scale,
        scale_out=1.0 if is_transcoder else scale,
        by_norm=cfg.get("rescale_acts_by_decoder_norm") is True,
        normalisation=normalisation,
        notes={"architecture": architecture, "file": WEIGHTS} | _told(where, factor),
        **parts,
        **_place(where, is_transcoder),
    )


def _current(cfg: JsonDict, file: Path) -> tuple[JsonDict, JsonDict]:
    """A configuration in the terms of version 6, and the record that says where it belongs."""
    metadata = cfg.get("metadata")
    where = metadata if isinstance(metadata, dict) else {}
    version = text_of(cfg, "sae_lens_version") or text_of(where, "sae_lens_version") or "0"
    if version.split(".")[0].isdecimal() and int(version.split(".")[0]) >= 6:
        return cfg, where
    cfg = {_OLD_NAMES.get(name, name): value for name, value in cfg.items()}
    cfg = {"architecture": "standard", "apply_b_dec_to_input": True} | cfg
    function, settings = cfg.get("activation_fn", "relu"), cfg.get("activation_fn_kwargs")
    if function == "topk":
        k = settings.get("k") if isinstance(settings, dict) else None
        cfg |= {"architecture": "topk", "k": cfg.get("k", k)}
    elif function != "relu":
        refuse(file, "activation_fn", function, "'relu' or 'topk'")
    if isinstance(cfg.get("normalize_activations"), bool):
        cfg["normalize_activations"] = "expected_average_only_in" if cfg["normalize_activations"] else "none"
    return cfg, cfg | where


def _scaled(cfg: JsonDict, path: Path, given: Given) -> tuple[float, str | None]:
    """(factor on the inputs, name of a normalisation that is the caller's)."""
    kind = cfg.get("normalize_activations") or "none"
    if kind == "none":
        return 1.0, None
    if kind in _BY_TOKEN:
        return 1.0, kind
    if kind != "expected_average_only_in":
        wanted = f"'none', 'expected_average_only_in' or one of {', '.join(_BY_TOKEN)}. Fold it with SAELens first."
        refuse(path / CONFIG, "normalize_activations", kind, wanted)
    if given.input_scale is not None:
        return given.input_scale, None
    if not (path / SCALER).is_file():
        raise ValueError(
            f"input_scale: {str(path / CONFIG)!r} says that its training scaled the activations to a mean norm of "
            f"√d_in (normalize_activations {kind!r}), and neither it nor {SCALER} has the factor; wanted "
            "input_scale=√d_in / mean norm (norm_scaling_factor in SAELens' list of releases), or 1 if it is in the "
            "weights already. Give it to monosem.load, then monosem.save the dictionary."
        )
    record = sealed.read_json(path / SCALER, "folder", "the scale of activations that SAELens wrote")
    if record.get("has_whitening"):
        refuse(path / SCALER, "has_whitening", True, "a scale alone. Fold the whitening with SAELens first.")
    return number_of(record, "scaling_factor", path / SCALER), None


def _activation(tensors: Tensors, activation: str) -> dict[str, Tensor]:
    if activation == "gated":
        names = {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
        return {name: tensors.take(theirs, "d_sae") for name, theirs in names.items()}
    biases = {"b_enc": tensors.take("b_enc", "d_sae")}
    if activation != "jumprelu":
        return biases
    if "log_threshold" in tensors and "threshold" not in tensors:
        return biases | {"threshold": tensors.take("log_threshold", "d_sae").double().exp()}
    return biases | {"threshold": tensors.take("threshold", "d_sae")}


def _finetuned(tensors: Tensors, cfg: JsonDict) -> Tensor | None:
    """Factors on the values of features in the decoder alone, which versions before 6 could train afterwards."""
    for name in ("finetuning_scaling_factor", "scaling_factor"):
        if name in tensors:
            factor = tensors.take(name, "d_sae")
            if bool((factor == 1).all()):
                return None
            if not cfg.get("finetuning_scaling_factor"):
                file = tensors.path.with_name(CONFIG)
                refuse(file, "finetuning_scaling_factor", False, f"true, for {name} in {WEIGHTS} is not 1 everywhere")
            return factor
    return None


def _place(where: JsonDict, is_transcoder: bool) -> JsonDict:
    head = where.get("hook_head_index")
    return {
        "model": text_of(where, "model_name"),
        "hook_name": text_of(where, "hook_name") if head is None else None,  # a hook holds all heads
        "hook_out": text_of(where, "hook_name_out") if is_transcoder else None,
        "context": context_of(where, "context_size"),
    }


def _told(where: JsonDict, factor: Tensor | None) -> JsonDict:
    names = ("sae_lens_version", "hook_head_index", "prepend_bos", "dataset_path", "neuronpedia_id", "hf_hook_name")
    told = {name: where[name] for name in names if where.get(name) is not None}
    return told | ({} if factor is None else {"finetuning_scaling_factor": "in the decoder rows"})


SAE_LENS = Format("SAELens", f"{CONFIG} + {WEIGHTS}", recognise, read)
