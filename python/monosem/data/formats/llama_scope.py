"""Llama Scope (OpenMOSS): ``hyperparams.json`` + ``checkpoints/final.safetensors``, and the later R1 layout."""

from __future__ import annotations

from pathlib import Path

import torch

from monosem.data import sealed
from monosem.data.formats.base import Foreign, Format, Given, number_of, refuse, size_of, text_of
from monosem.data.formats.tensors import linears, of_safetensors

CONFIG, WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
R1_CONFIG, R1_WEIGHTS = "config.json", "sae_weights.safetensors"
MODEL = "meta-llama/Llama-3.1-8B"


def recognise(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read(path: Path, given: Given) -> Foreign:
    """JumpReLU with one threshold, in units of the activations as they are: it is scaled as they are."""
    file = path / CONFIG
    record = sealed.read_json(file, "folder", "the hyperparameters of a Llama Scope dictionary")
    d_in, threshold = size_of(record, "d_model", file), number_of(record, "jump_relu_threshold", file)
    if record.get("act_fn") != "jumprelu":
        refuse(file, "act_fn", record.get("act_fn"), "'jumprelu'")
    if record.get("hook_point_in") != record.get("hook_point_out", record.get("hook_point_in")):
        refuse(file, "hook_point_out", record["hook_point_out"], "hook_point_in: its transcoders are not supported")
    norms = record.get("dataset_average_activation_norm")
    scale = d_in**0.5 / number_of(norms if isinstance(norms, dict) else {}, "in", file)
    tensors = of_safetensors(path / WEIGHTS, {"d_in": d_in, "d_sae": size_of(record, "d_sae", file)})
    parameters = linears(tensors)
    tensors.done()
    if record.get("sparsity_include_decoder_norm") and not _is_unit(parameters["W_dec"]):
        refuse(file, "sparsity_include_decoder_norm", True, "false, or decoder rows of norm 1")
    return Foreign(
        activation="jumprelu",
        **parameters,
        threshold=torch.full((len(parameters["b_enc"]),), threshold * scale, dtype=torch.float64, device="cpu"),
        centred=record.get("apply_decoder_bias_to_pre_encoder") is True,
        scale_in=scale,
        scale_out=scale,
        model=MODEL,
        hook_name=text_of(record, "hook_point_in"),
        notes={"architecture": "jumprelu", "file": WEIGHTS},
    )


def recognise_r1(path: Path) -> bool:
    return (path / R1_WEIGHTS).is_file() and (path / R1_CONFIG).is_file()


def read_r1(path: Path, given: Given) -> Foreign:
    """JumpReLU with a threshold per feature; the factor of the inputs is not in its files."""
    file = path / R1_CONFIG
    record = sealed.read_json(file, "folder", "the configuration of a Llama Scope dictionary")
    d_in = size_of(record, "d_model", file)
    if given.input_scale is None:
        raise ValueError(
            f"input_scale: {str(path)!r} does not say by which factor its training scaled the activations; wanted "
            "input_scale=√d_in / their mean norm (norm_scaling_factor in SAELens' list of releases). Give it to "
            "monosem.load, then monosem.save the dictionary."
        )
    tensors = of_safetensors(
        path / R1_WEIGHTS, {"d_in": d_in, "d_sae": d_in * size_of(record, "expansion_factor", file)}
    )
    parameters = linears(tensors)
    threshold = tensors.take("log_jumprelu_threshold", "d_sae").double().exp()
    tensors.done()
    return Foreign(
        activation="jumprelu",
        **parameters,
        threshold=threshold,
        centred=False,
        scale_in=given.input_scale,
        scale_out=given.input_scale,
        model=MODEL,
        hook_name=text_of(record, "hook_point_in"),
        notes={"architecture": "jumprelu", "file": R1_WEIGHTS},
    )


def _is_unit(rows: torch.Tensor) -> bool:
    """Whether all rows have norm 1, as well as bf16 keeps it."""
    return bool(((rows.float().norm(dim=1) - 1).abs() < 2**-7).all())


LLAMA_SCOPE = Format("Llama Scope", f"{CONFIG} + {WEIGHTS}", recognise, read)
LLAMA_SCOPE_R1 = Format("Llama Scope R1", f"{R1_CONFIG} + {R1_WEIGHTS}", recognise_r1, read_r1)
