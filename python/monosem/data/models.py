"""Load a language model: a bundled one, one trained by ``monosem lm train``, or one of TransformerLens."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path

import torch

from monosem.data.adapter import Model
from monosem.data.native import load_folder
from monosem.data.shuffled_weights import SHUFFLED, shuffle_weights

BUNDLED = ("A", "B")


def load_model(model: str | Path | Model | torch.nn.Module, device: torch.device | str = "cpu") -> Model:
    """A language model by name, folder or object.

    Args:
        model: ``"A"`` or ``"B"`` (shipped with monosem: one layer, 512 ReLU neurons, seeds 0 and 1), a folder
            that ``monosem lm train`` wrote, a TransformerLens model, or the name of one that TransformerLens loads.
            One of monosem's own with ``~shuffled`` behind it (``"A~shuffled"``) has its weight matrices permuted.

    Raises:
        FileNotFoundError: a folder or a bundled model that lacks a file.
        ValueError: none of these.
    """
    if isinstance(model, Model):
        return model.to(device)
    if isinstance(model, str) and model.endswith(SHUFFLED):
        return shuffle_weights(load_model(model.removesuffix(SHUFFLED), device))
    if isinstance(model, str) and model in BUNDLED:
        return load_folder(Path(str(resources("monosem"))) / "assets" / "lm" / model, model).to(device)
    if isinstance(model, (str, Path)):
        if Path(model).is_dir():
            return load_folder(Path(model), str(model)).to(device)
        from monosem.data.lens import load_pretrained

        return load_pretrained(str(model)).to(device)
    if hasattr(model, "run_with_hooks") and hasattr(model, "hook_dict"):
        from monosem.data.lens import LensModel

        return LensModel(model).to(device)
    raise ValueError(
        f"model: got {type(model).__name__}; wanted one of {', '.join(BUNDLED)}, a folder of `monosem lm train`, "
        "a TransformerLens model or the name of one (a Transformer: wrap it in NativeModel with its tokenizer)"
    )


def as_transformer_lens(model: str | Path | Model) -> torch.nn.Module:
    """A monosem model's weights as a TransformerLens model with its tokenizer, without network.

    ``HookedTransformer`` under TransformerLens 3, ``TransformerBridge`` under 4; the logits agree to fp32 rounding.

    Raises:
        ImportError: TransformerLens is not installed.
        ValueError: not one of monosem's own models.
    """
    from monosem.data.lens import to_lens

    return to_lens(load_model(model))
