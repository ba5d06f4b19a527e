"""Per-layer transcoders of circuit-tracer (mwhanna, mntss): ``layer_N.safetensors`` below ``config.yaml``."""

from __future__ import annotations

import re
from pathlib import Path

from monosem.data.formats.base import Foreign, Format, Given, refuse
from monosem.data.formats.tensors import Tensors, of_safetensors

_NAME = re.compile(r"layer_(\d+)\.safetensors$")
_THRESHOLD = "activation_function.threshold"


def recognise(path: Path) -> bool:
    return path.is_file() and _NAME.match(path.name) is not None


def read(path: Path, given: Given) -> Foreign:
    """A transcoder: ReLU, JumpReLU where it has thresholds, or TopK where it has k; it may have a skip connection."""
    layer = _NAME.match(path.name)
    assert layer is not None
    tensors = of_safetensors(path)
    W_enc, b_enc = tensors.take("W_enc", "d_sae", "d_in"), tensors.take("b_enc", "d_sae")
    W_dec, b_dec = tensors.take("W_dec", "d_sae", "d_out"), tensors.take("b_dec", "d_out")
    settings = _settings(path.parent)
    activation, threshold, k = "relu", None, None
    if _THRESHOLD in tensors:
        activation, threshold = "jumprelu", tensors.take(_THRESHOLD, "d_sae")
        if bool((threshold < 0).any()):  # there a value between it and 0 is active
            refuse(path, _THRESHOLD, float(threshold.min()), "thresholds of 0 or more")
    elif "k" in tensors or settings.get("activation") == "topk":
        activation, k = "topk", _k(tensors, settings, given, path)
    W_skip = tensors.take("W_skip", "d_out", "d_in") if "W_skip" in tensors else None
    tensors.done()
    if settings.get("activation", activation) not in (activation, "jump_relu"):
        wanted = f"{activation!r}, by the tensors of {path.name}"
        refuse(path.parent / "config.yaml", "activation", settings["activation"], wanted)
    hooks = [settings.get(f"feature_{end}_hook") for end in ("input", "output")]
    read_at, written_at = [f"blocks.{layer[1]}.{hook}" if hook else None for hook in hooks]
    return Foreign(
        activation=activation,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=W_skip,
        threshold=threshold,
        k=k,
        centred=False,
        is_transcoder=True,
        model=settings.get("model_name"),
        hook_name=read_at,
        hook_out=written_at,
        notes={"architecture": f"{activation} transcoder", "file": path.name},
    )


def _k(tensors: Tensors, settings: dict[str, str], given: Given, path: Path) -> int:
    k = tensors.number("k") if "k" in tensors else settings.get("k", given.k)
    if not str(k).isdecimal() or int(str(k)) < 1:
        refuse(path, "k", k, "a positive integer, in config.yaml or as k in monosem.load")
    return int(str(k))


def _settings(folder: Path) -> dict[str, str]:
    """The lines ``name: text`` of config.yaml, which need no parser of YAML."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    lines = re.findall(r"^(\w+):[ \t]*([^\s#][^#\n]*?)[ \t]*(?:#.*)?$", text, flags=re.M)
    return {name: value.strip("'\"") for name, value in lines}


CIRCUIT_TRACER = Format("circuit-tracer", "layer_N.safetensors, with config.yaml", recognise, read)
