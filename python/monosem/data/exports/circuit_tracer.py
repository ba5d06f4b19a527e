"""circuit-tracer: ``layer_N.safetensors`` of per-layer transcoders below ``config.yaml``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch

from monosem.data.exports.plain import Refused, Write, tensors, thresholds, uncentred_bias
from monosem.data.formats import Foreign
from monosem.nn.config import JsonDict

_HOOK = re.compile(r"blocks\.(\d+)\.(.+)$")


def files_of(d: Foreign, folder: Path) -> dict[str, Write]:
    if not d.is_transcoder:
        raise Refused("dictionaries but transcoders")
    d_in, d_out = d.W_enc.shape[1], d.W_dec.shape[1]
    if d_in != d_out:
        raise Refused(f"output of another width than its input ({d_in} → {d_out})")
    if d.activation not in ("relu", "topk", "jumprelu", "batch_topk"):
        raise Refused(f"transcoder of {d.activation!r}")
    read_at, written_at = (_HOOK.match(hook or "") for hook in (d.hook_name, d.hook_out))
    if not read_at or not written_at or read_at[1] != written_at[1]:
        raise Refused(f"place for hooks {d.hook_name!r} → {d.hook_out!r}, but blocks.N.… → blocks.N.… of one layer")
    jumps = d.activation in ("jumprelu", "batch_topk")
    weights = {
        "W_enc": d.W_enc,
        "b_enc": uncentred_bias(d),
        "W_dec": d.W_dec,
        "b_dec": d.b_dec,
        "W_skip": d.W_skip,
        "activation_function.threshold": thresholds(d) if jumps else None,
        "k": torch.tensor(d.k, dtype=torch.int64, device="cpu") if d.activation == "topk" else None,
    }
    config = {
        "model_name": d.model,
        "model_kind": "transcoder_set",
        "feature_input_hook": read_at[2],
        "feature_output_hook": written_at[2],
        "activation": "topk" if d.activation == "topk" else None,
        "k": d.k if d.activation == "topk" else None,
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in config.items() if value is not None]
    text = "\n".join(lines) + "\n"
    _check_same(folder / "config.yaml", text, config)
    return {
        f"layer_{read_at[1]}.safetensors": tensors(weights),
        "config.yaml": lambda path: path.write_text(text, encoding="utf-8"),
    }


def _check_same(path: Path, text: str, config: JsonDict) -> None:
    """Layers of one folder are transcoders of one model at one place."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"folder: {str(path)!r} is of other transcoders; wanted those of {config['feature_input_hook']!r} → "
            f"{config['feature_output_hook']!r} of {config['model_name']!r}. Choose another folder."
        )
