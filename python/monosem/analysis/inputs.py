"""The inputs of an analysis: a trained dictionary with its model and hook, and labelled rows of text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from monosem.analysis.joined import CrosscoderSource, Joined
from monosem.analysis.neuron_basis import NeuronBasis
from monosem.analysis.unit_rows import NegativeSide, in_unit_rows
from monosem.data import fingerprint
from monosem.data.normalised import NormalisedTokens
from monosem.data.protocols import LanguageModel
from monosem.data.serialization import load
from monosem.data.sites import Sites, as_list
from monosem.nn import SAE, Crosscoder, TrainedOn
from monosem.nn.dictionary import Dictionary

if TYPE_CHECKING:
    import torch

    from monosem.data.adapter import Model
    from monosem.data.token_rows import TokenRows

    ModelLike = str | Path | Model | torch.nn.Module | None

NEURONS, NEGATIVE = "neurons:", "negative:"  # prefixes of a folder


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
    folder: str | Path,
    model: ModelLike = None,
    hook_name: str | None = None,
    device: str = "cpu",
    *,
    hook_out: str | None = None,
    source: int | None = None,
    device_map: Any = None,
) -> Subject:
    """A dictionary with its model and hook, from the folder unless named.

    Args:
        folder: of ``monosem.save`` or of another library (``monosem.load``); or ``"neurons:A"``: the neurons of a model
            themselves, as a dictionary (:class:`monosem.analysis.neuron_basis.NeuronBasis`), at ``hook_name`` or the
            first ``mlp.hook_post``; or ``"negative:FOLDER"``: the negative side of its features
            (``unit_rows.NegativeSide``), of AbsTopK.
        hook_out: of a transcoder: the activation that it predicts.
        source: of a crosscoder: the number of the source whose part of the decoder is looked at; None: 0. Its models
            and hooks are those of the folder.
        device_map: of a model of Hugging Face, as of ``load_model``; None: the CPU.

    Raises:
        FileNotFoundError: no dictionary in the folder.
        ValueError: the folder does not say the model or the hook, and neither does the call; or the dictionary has no
            ``hook_out`` or ``source``, or no negative side.
    """
    from monosem.data.models import load_model

    placed = {"device_map": device_map}
    if str(folder).startswith(NEGATIVE):
        own = str(folder).removeprefix(NEGATIVE)
        subject = load_subject(own, model, hook_name, device, hook_out=hook_out, source=source, **placed)
        return replace(subject, sae=NegativeSide(subject.sae))
    if str(folder).startswith(NEURONS):
        neurons = load_model(str(folder).removeprefix(NEURONS) if model is None else model, **placed)
        _refuse(hook_out, "hook_out", folder, "the neurons of a model")
        _refuse(source, "source", folder, "the neurons of a model")
        return _neurons(neurons, hook_name, device)
    sae = load(folder, device, inputs_normalised=None)
    return subject_of(sae, folder, model, hook_name, hook_out=hook_out, source=source, **placed)


def subject_of(
    sae: SAE,
    folder: str | Path,
    model: ModelLike = None,
    hook_name: str | None = None,
    *,
    hook_out: str | None = None,
    source: int | None = None,
    device_map: Any = None,
) -> Subject:
    """A dictionary in memory with its model and hook, as ``load_subject``.

    Args:
        folder: where it came from, for errors.
    """
    from monosem.data.models import load_model

    placed = {"device_map": device_map}
    trained_on, hooks, models = sae.cfg.trained_on, sae.metadata.get("hook_name"), sae.metadata.get("model")
    if trained_on != TrainedOn.PAIR:
        _refuse(hook_out, "hook_out", folder, f"a {sae.cfg.kind}, which reconstructs what it reads")
    if isinstance(sae, Crosscoder) and (isinstance(hooks, list) or isinstance(models, list)):
        if model is not None or hook_name is not None:
            raise ValueError(
                f"model, hook_name: got {hook_name or model!r}; wanted neither, for a crosscoder is read at the hooks "
                f"of its run, {hooks} of {models}. Leave them out."
            )
        return _at_source(sae, folder, hooks, models, 0 if source is None else source, placed)
    _refuse(source, "source", folder, f"a {sae.cfg.kind} of one activation")
    named = model is not None
    if isinstance(hooks, list):  # of a transcoder
        hook_out = hook_out or hooks[-1]
        hooks = hooks[0]
    model = models if model is None else model
    hook_name = hooks if hook_name is None else hook_name
    if model is None:
        raise _unknown("model", folder, "--model A")
    if hook_name is None:
        raise _unknown("hook_name", folder, "--hook blocks.0.mlp.hook_post", sae)
    loaded = load_model(model, **placed)
    if not named:
        _check_weights(sae.metadata, loaded, folder)
    if trained_on != TrainedOn.PAIR:
        if kind := sae.metadata.get("loaded_from", {}).get("inputs_normalised"):
            loaded = cast("LanguageModel", NormalisedTokens(loaded, hook_name, kind))
        return Subject(sae, loaded, hook_name)
    if hook_out is None:
        raise _unknown("hook_out", folder, "--hook-out blocks.0.hook_mlp_out", sae)
    return paired(sae, loaded, hook_name, hook_out)


def paired(sae: Dictionary, model: LanguageModel, hook_name: str, hook_out: str) -> Subject:
    """A transcoder that reads ``hook_name`` and predicts ``hook_out``.

    Raises:
        ValueError: an unknown hook, or one of another width than its output.
    """
    width = model.width(hook_out)
    if width != len(sae.b_dec):
        raise ValueError(
            f"hook_out: {hook_out!r} of model {model.name!r} is {width} wide and the transcoder's output "
            f"{len(sae.b_dec)}; wanted the hook that it was trained to predict"
        )
    name = f"{hook_name} → {hook_out}"
    return Subject(sae, cast("LanguageModel", Joined(Sites(model, hook_name), (model, hook_out), name)), name)


def _at_source(
    sae: Crosscoder, folder: str | Path, hooks: Any, models: Any, source: int, placed: dict[str, Any]
) -> Subject:
    from monosem.data.models import load_model

    for name, value in (("model", models), ("hook_name", hooks)):
        if value is None:
            raise ValueError(
                f"{name}: {str(folder)!r} does not say which it was trained on; wanted {name} in its metadata, a list "
                "of one per source. Save it again with monosem.save(…, metadata)."
            )
    sites = Sites([load_model(name, **placed) for name in as_list(models)], hooks)
    if len(sites.places) != sae.cfg.n_sources:
        raise ValueError(f"hook_name: got {len(sites.places)} in {str(folder)!r}; wanted n_sources={sae.cfg.n_sources}")
    subject = of_source(sae, sites, source)
    _check_weights(sae.metadata, subject.model, folder)
    return subject


def of_source(sae: Crosscoder, sites: Sites, source: int) -> Subject:
    """A crosscoder of these activations, at one of its sources. Raises ValueError for a number that is none."""
    at = CrosscoderSource(sae, source)
    model, hook = sites.places[source]
    hooks = list(dict.fromkeys(hook for _, hook in sites.places))
    own = hook if len(hooks) > 1 else model.name
    name = f"{' + '.join(hooks)}, source {source} ({own})"
    return Subject(at, cast("LanguageModel", Joined(sites, (cast("LanguageModel", model), hook), name)), name)


def sources_of(subject: Subject) -> list[Subject]:
    """A crosscoder at each of its sources, given at one of them."""
    assert isinstance(subject.sae, CrosscoderSource) and isinstance(subject.model, Joined)
    return [of_source(subject.sae.crosscoder, subject.model.reads, i) for i in range(subject.sae.cfg.n_sources)]


def _refuse(value: object, name: str, folder: str | Path, what: str) -> None:
    if value is not None:
        raise ValueError(f"{name}: got {value!r}; {str(folder)!r} holds {what}. Leave it out.")


def _unknown(name: str, folder: str | Path, option: str, sae: SAE | None = None) -> ValueError:
    origin = {} if sae is None else sae.metadata.get("loaded_from", {})
    hints = [f"{key} {origin[key]!r}" for key in ("hookpoint", "submodule_name", "layer") if key in origin]
    told = f" (its files name {' and '.join(hints)})" if hints else ""
    return ValueError(
        f"{name}: {str(folder)!r} does not say which it was trained on{told}; name it, for example {option}"
    )


def _check_weights(metadata: dict[str, Any], model: LanguageModel, folder: str | Path) -> None:
    """A model of the same name may have been trained anew: ValueError unless it is the one of the dictionary."""
    data = metadata.get("data")
    there, here = data.get("weights") if isinstance(data, dict) else None, fingerprint.of_model(model)
    if fingerprint.same_weights(there, here) is False:
        from monosem.data.models import BUNDLED, load_model

        shipped = (name for name in BUNDLED if fingerprint.of_model(load_model(name)) == there)
        old = next((f"It ships under another name: --model {name}" for name in shipped), "Put it back")
        raise ValueError(
            f"model: {model.name!r} has other weights ({here}) than when {str(folder)!r} was trained on it ({there}); "
            f"wanted the same model. {old}, or ask for this one: --model {model.name}"
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
        text: a JSON-lines file (``{"source": ..., "text": ...}``), or ``"sample"``: the shipped text. Vectors of
            ``save_vectors`` have their own texts, and no other.
        split: ``"train"``, ``"held_out"`` (2 % of the documents of each source) or ``"all"``.
        n_ctx: tokens of a row, BOS included; default: the model's longest context, or 2,048 where that is longer.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such text, an ``n_ctx`` that the model cannot read, or less of it than one context.
    """
    from monosem.data.sample import stream_documents
    from monosem.data.token_rows import pack_rows
    from monosem.data.vectors import own_rows

    if (own := own_rows(model, text, split, n_ctx)) is not None:
        return own
    return pack_rows(stream_documents(text, split), model, n_ctx)
