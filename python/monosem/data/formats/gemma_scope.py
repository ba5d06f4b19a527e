"""Gemma Scope: ``params.npz`` of Gemma 2, ``params.safetensors`` of Gemma 3; JumpReLU, transcoders among them."""

from __future__ import annotations

from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given, record_of, refuse, text_of
from monosem.data.formats.hooks import search
from monosem.data.formats.tensors import Tensors, of_npz, of_safetensors
from monosem.data.places import INPUT
from monosem.nn.config import JsonDict

FIRST, SECOND, CONFIG = "params.npz", "params.safetensors", "config.json"
_REPOSITORY = r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)"
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
_SECOND_SITES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
}


def _in(path: Path, name: str) -> Path:
    return path if path.name == name else path / name


def recognise_first(path: Path) -> bool:
    return _in(path, FIRST).is_file()


def read_first(path: Path, given: Given) -> Foreign:
    """A dictionary of Gemma 2. Its files do not say where it belongs: the names of their folders do."""
    file = _in(path, FIRST)
    tensors = of_npz(file)
    parts = _weights(tensors, "W" if "W_enc" in tensors else "w", "d_in")
    tensors.done()
    repository, layer = search(file, _REPOSITORY), search(file.parent, r"^layer_(\d+)$")
    site, model = (repository[3], f"google/gemma-2-{repository[1]}") if repository else (None, None)
    if repository and repository[2] == "it":
        model = f"{model}-it"
    is_transcoder, hook, scale = site == "transcoders", None, 1.0
    if search(file.parent, r"^embedding$"):  # trained on embeddings before the factor √d_in that the hook has
        hook, scale = "hook_embed", tensors.sizes["d_in"] ** -0.5
    elif site in _SITES and layer:
        hook = f"blocks.{layer[1]}.{_SITES[site]}"
    return Foreign(
        **parts,
        is_transcoder=is_transcoder,
        scale_in=scale,
        scale_out=scale,
        model=model,
        hook_name=f"blocks.{layer[1]}.ln2.hook_normalized" if is_transcoder and layer else hook,
        hook_out=f"blocks.{layer[1]}.hook_mlp_out" if is_transcoder and layer else None,
        notes={"architecture": "jumprelu_transcoder" if is_transcoder else "jumprelu", "file": FIRST},
    )


def recognise_second(path: Path) -> bool:
    return _in(path, SECOND).is_file()


def read_second(path: Path, given: Given) -> Foreign:
    """A dictionary of Gemma 3, or a transcoder with or without an affine skip connection."""
    file = _in(path, SECOND)
    record = record_of(file.with_name(CONFIG))
    if record and record.get("architecture") != "jump_relu":
        refuse(file.with_name(CONFIG), "architecture", record.get("architecture"), "'jump_relu'")
    tensors = of_safetensors(file)
    has_skip = "affine_skip_connection" in tensors
    kind = next((part for part in reversed(file.parts) if "transcoder" in part or "clt" in part), "")
    out = text_of(record, "hf_hook_point_out")
    is_transcoder = has_skip or bool(kind) or (out is not None and out != record.get("hf_hook_point_in"))
    axis = "d_out" if is_transcoder else "d_in"
    parts = _weights(tensors, "w", axis)
    W_skip = tensors.take("affine_skip_connection", "d_in", "d_out").T if has_skip else None
    tensors.done()
    if record and record.get("affine_connection", has_skip) is not has_skip:
        wanted = f"{has_skip}, for {SECOND} has {'an' if has_skip else 'no'} affine_skip_connection"
        refuse(file.with_name(CONFIG), "affine_connection", record["affine_connection"], wanted)
    model = text_of(record, "model_name")
    names = {key: record[key] for key in ("hf_hook_point_in", "hf_hook_point_out") if record.get(key)}
    return Foreign(
        **parts,
        W_skip=W_skip,
        is_transcoder=is_transcoder,
        model=None if model is None else "google/" + model.removeprefix("google/").replace("-v3", "-3"),
        hook_name=_second_site(names.get("hf_hook_point_in")),
        hook_out=_second_site(out) if is_transcoder else None,
        notes={"architecture": "jump_relu", "file": SECOND} | names,
    )


def _weights(tensors: Tensors, w: str, axis: str) -> JsonDict:
    return {
        "activation": "jumprelu",
        "centred": False,
        "W_enc": tensors.take(f"{w}_enc", "d_in", "d_sae").T,
        "W_dec": tensors.take(f"{w}_dec", "d_sae", axis),
        "b_enc": tensors.take("b_enc", "d_sae"),
        "b_dec": tensors.take("b_dec", axis),
        "threshold": tensors.take("threshold", "d_sae"),
    }


def _second_site(point: str | None) -> str | None:
    """The hook of ``model.layers.7.output``: by TransformerLens' name where there is one, else that of the module."""
    if point is None:
        return None
    parts = point.split(".", 3)
    site = _SECOND_SITES.get(parts[-1]) if parts[:2] == ["model", "layers"] and len(parts) == 4 else None
    if site:
        return f"blocks.{parts[2]}.{site}"
    module, _, side = point.rpartition(".")
    return {"output": module, "input": module + INPUT}.get(side)


GEMMA_SCOPE = Format("Gemma Scope", f"{FIRST}, in folders layer_N/width_W/average_l0_L", recognise_first, read_first)
GEMMA_SCOPE_2 = Format("Gemma Scope 2", f"{SECOND} + {CONFIG}", recognise_second, read_second)
