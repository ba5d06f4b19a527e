"""Load a language model: a bundled one, one of ``monosem lm train``, of Hugging Face or TransformerLens; or vectors."""

from __future__ import annotations

from dataclasses import asdict
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import torch

from monosem.data import hugging_face, lens, vectors
from monosem.data.adapter import Model
from monosem.data.model_names import ModelName
from monosem.data.native import load_folder
from monosem.data.nearest import did_you_mean
from monosem.data.shuffled_weights import SHUFFLED, shuffle_weights

BUNDLED = ("A", "B", "first/A", "first/B")


def load_model(
    model: str | Path | Model | torch.nn.Module,
    device: torch.device | str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    revision: str | None = None,
    tokenizer: Any = None,
) -> Model:
    """A language model by name, folder or object.

    Args:
        model: one of these:

            * ``"A"`` or ``"B"``: shipped with monosem, one layer, 512 ReLU neurons, of two seeds. ``"first/A"`` and
              ``"first/B"`` are those that had these names before.
            * A folder that ``monosem lm train`` wrote. With ``~shuffled`` behind it, as behind A and B
              (``"A~shuffled"``), the weight matrices are permuted.
            * The name of a model at Hugging Face, a folder of ``save_pretrained``, or a ``.gguf`` file: any decoder
              that ``transformers.AutoModelForCausalLM`` loads. ``NAME@REVISION``, ``NAME+bf16`` and
              ``NAME@REVISION+bf16`` are the same with those options, and are how files call the model.
            * A folder of ``save_vectors``: vectors that were computed elsewhere, one per text.
            * A ``PreTrainedModel`` of ``transformers``.
            * A TransformerLens model, a name that TransformerLens alone has (``gpt2-small``), or ``lens:NAME``.

        device: where it goes; None: the CPU for a name, and an object stays where it is.
        dtype: of a model of Hugging Face, by name: bf16, fp16 or fp32; None or ``"auto"``: as it is stored.
        device_map: as of ``from_pretrained``, of a model of Hugging Face by name: ``"auto"``, or a module's device.
        revision: branch, tag or commit, of a name at Hugging Face.
        tokenizer: of a ``PreTrainedModel``, or instead of that of a name at Hugging Face.

    Raises:
        FileNotFoundError: a folder or a bundled model that lacks a file.
        ImportError: the model's library is not installed.
        ValueError: none of these, or an option that this model does not have.
    """
    options = {"dtype": dtype, "revision": revision, "device_map": device_map, "tokenizer": tokenizer}
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, (str, Path)):
        loaded = _by_name(str(model), options)
        device = "cpu" if device is None and device_map is None else device
    else:
        loaded = _of_object(model, options)
    return loaded if device is None else loaded.to(device)


def _of_object(model: Model | torch.nn.Module, options: dict[str, Any]) -> Model:
    if hugging_face.is_model(model):
        tokenizer = options.pop("tokenizer", None)
        _refuse(options, "in memory already")
        return hugging_face.HuggingFaceModel(model, tokenizer)  # pyright: ignore[reportArgumentType]  # it is a Module
    _refuse(options, f"a {type(model).__name__}, not one of Hugging Face")
    if isinstance(model, Model):
        return model
    if hasattr(model, "run_with_hooks") and hasattr(model, "hook_dict"):
        return lens.LensModel(model)
    raise ValueError(
        f"model: got {type(model).__name__}; wanted one of {', '.join(BUNDLED)}, a folder of `monosem lm train`, the "
        "name, folder or object of a decoder of transformers, or a TransformerLens model or the name of one "
        "(a Transformer: wrap it in NativeModel with its tokenizer)"
    )


def _by_name(name: str, options: dict[str, Any]) -> Model:
    if name.endswith(SHUFFLED):
        return shuffle_weights(_by_name(name.removesuffix(SHUFFLED), options))
    named = ModelName.parse(name).with_options(options.pop("revision", None), options.pop("dtype", None))
    path = Path(named.path)
    given = options | {k: v for k, v in asdict(named).items() if k != "path" and v is not None}
    if vectors.is_folder(path):
        _refuse(given, "a folder of vectors")
        return vectors.Vectors(path)
    if named.path in BUNDLED or (path.is_dir() and not hugging_face.is_folder(path)):
        _refuse(given, "one of monosem's own, of fp32")
        own = Path(str(resources("monosem"))) / "assets" / "lm" / named.path
        return load_folder(own if named.path in BUNDLED else path, named.path)
    if not path.exists() and (named.path.startswith(lens.LENS) or ("/" not in name and named.path in lens.own_names())):
        _refuse(given, "one of TransformerLens")
        return lens.load_pretrained(named.path)
    if path.exists() and named.revision is not None:
        raise ValueError(f"revision: got {named.revision!r}; {named.path!r} is on this disk. Leave it out.")
    try:
        return hugging_face.load_pretrained(named, **options)
    except (hugging_face.NotLoaded, ImportError) as error:
        if path.exists():
            raise
        unknown = f"model: {name!r} is neither a bundled model nor a folder"
        similar = did_you_mean(named.path, lens.own_names()) if "/" not in name else ""
        raise type(error)(f"{unknown}, and {error}{similar}") from error


def _refuse(options: dict[str, Any], what: str) -> None:
    for name, value in options.items():
        raise ValueError(f"{name}: got {value!r}; the model is {what}, which this does not change. Leave it out.")


def as_transformer_lens(model: str | Path | Model) -> torch.nn.Module:
    """A monosem model's weights as a TransformerLens model with its tokenizer, without network.

    ``HookedTransformer`` under TransformerLens 3, ``TransformerBridge`` under 4; the logits agree to fp32 rounding.

    Raises:
        ImportError: TransformerLens is not installed.
        ValueError: not one of monosem's own models.
    """
    return lens.to_lens(load_model(model))
