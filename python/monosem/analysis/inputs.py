"""The inputs of an analysis: a trained dictionary with its model and hook, and labelled rows of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.unit_rows import in_unit_rows
from monosem.data import fingerprint
from monosem.data.protocols import LanguageModel
from monosem.data.serialization import load
from monosem.nn.dictionary import Dictionary

if TYPE_CHECKING:
    import torch

    from monosem.data.adapter import Model
    from monosem.data.token_rows import TokenRows

    ModelLike = str | Path | Model | torch.nn.Module | None

NEURONS = "neurons:"


@dataclass(frozen=True)
class Subject:
    """A dictionary, its model and its hook.

    Attributes:
        sae: in the units in which features are shown (``unit_rows.in_unit_rows``), whatever the norms of its rows.
    """

    sae: Dictionary
    model: LanguageModel
    hook_name: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "sae", in_unit_rows(self.sae))


def load_subject(
    folder: str | Path, model: ModelLike = None, hook_name: str | None = None, device: str = "cpu"
) -> Subject:
    """Load a trained dictionary; model and hook are those it was trained on unless given.

    Args:
        folder: of the dictionary; or ``"neurons:A"``: the neurons of model A themselves, as a dictionary
            (:class:`monosem.analysis.neuron_basis.NeuronBasis`), at ``hook_name`` or the first ``mlp.hook_post``.

    Raises:
        FileNotFoundError: no dictionary in the folder.
        ValueError: the folder does not say the model or the hook, and neither does the call.
    """
    from monosem.data.models import load_model

    if str(folder).startswith(NEURONS):
        return _neurons(load_model(str(folder).removeprefix(NEURONS) if model is None else model), hook_name, device)
    sae = load(folder, device)
    named = model is not None
    model = sae.metadata.get("model") if model is None else model
    hook_name = sae.metadata.get("hook_name") if hook_name is None else hook_name
    if model is None:
        raise _unknown("model", folder, "--model A")
    if hook_name is None:
        raise _unknown("hook_name", folder, "--hook blocks.0.mlp.hook_post")
    loaded = load_model(model)
    if not named:
        _check_weights(sae.metadata, loaded, folder)
    return Subject(sae, loaded, hook_name)


def _unknown(name: str, folder: str | Path, option: str) -> ValueError:
    return ValueError(f"{name}: {str(folder)!r} does not say which it was trained on; name it, for example {option}")


def _check_weights(metadata: dict[str, Any], model: LanguageModel, folder: str | Path) -> None:
    """A model of the same name may have been trained anew: ValueError unless it is the one of the dictionary."""
    data = metadata.get("data")
    there, here = data.get("weights") if isinstance(data, dict) else None, fingerprint.of_model(model)
    if fingerprint.same_weights(there, here) is False:
        raise ValueError(
            f"model: {model.name!r} has other weights ({here}) than when {str(folder)!r} was trained on it ({there}); "
            f"wanted the same model. Put it back, or ask for this one: --model {model.name}"
        )


def _neurons(model: LanguageModel, hook_name: str | None, device: str) -> Subject:
    hook_name = hook_name or next((h for h in model.hook_names if h.endswith("mlp.hook_post")), None)
    if hook_name is None:
        raise ValueError(f"hook_name: model {model.name!r} has no mlp.hook_post; name the hook whose neurons you want")
    sae = NeuronBasis(model.width(hook_name), device)
    sae.metadata = {"model": model.name, "hook_name": hook_name}
    return Subject(sae, model, hook_name)


def load_rows(
    model: LanguageModel, text: str | Path = "sample", split: str = "held_out", n_ctx: int | None = None
) -> "TokenRows":
    """Rows of labelled text for a model.

    Args:
        text: a JSON-lines file (``{"source": ..., "text": ...}``), or ``"sample"``: the shipped text.
        split: ``"train"``, ``"held_out"`` (2 % of the documents of each source) or ``"all"``.
        n_ctx: tokens of a row, BOS included; default: the model's longest context.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such text, an ``n_ctx`` that the model cannot read, or less of it than one context.
    """
    from monosem.data.sample import stream_documents
    from monosem.data.token_rows import pack_rows

    return pack_rows(stream_documents(text, split), model, n_ctx)
