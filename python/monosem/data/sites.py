"""Where activations are read: at one hook of a model, at several of its hooks, or at one hook of several models."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
from torch import Tensor

from monosem.data import fingerprint
from monosem.data.nearest import nearest
from monosem.data.protocols import HookedModel

T = TypeVar("T")
_WILDCARDS = frozenset("*?[")


class Sites:
    """The activations of one or several (model, hook) on the same tokens, side by side: [..., Σ widths].

    Args:
        models: one model with one or several hooks, or several models, which share a tokenizer.
        hook_names: of one model: one or several, or patterns (``model.layers.*.mlp``, see :func:`matching`), which
            stand for the hooks of the first model that match. Of several models: one hook for all, or one per model.

    Attributes:
        places: the models and hooks, in the order of the columns.
        widths: of each.
        hook_name, model_name: for files: a name, or a list of one per place where there are several.

    Raises:
        ValueError: an unknown hook, a pattern that matches none, other numbers of models and hooks, or models that do
            not share a tokenizer.
    """

    def __init__(self, models: HookedModel | Sequence[HookedModel], hook_names: str | Sequence[str]) -> None:
        ms, hooks = as_list(models), as_list(hook_names)
        if ms:
            hooks = [name for hook in hooks for name in matching(hook, ms[0])]
        if not ms or not hooks or (len(ms) > 1 < len(hooks) and len(ms) != len(hooks)):
            raise ValueError(
                f"hook_name: got {len(hooks)} hooks of {len(ms)} models; wanted several hooks of one model, or several "
                "models with one hook for all, or with one hook each"
            )
        check_tokenizers(ms)
        count = max(len(ms), len(hooks))
        every_hook = hooks * count if len(hooks) == 1 else hooks
        self.models = tuple(ms)
        self.places = tuple(zip(ms * count if len(ms) == 1 else ms, every_hook, strict=True))
        if len(set((id(model), hook) for model, hook in self.places)) < count:
            raise ValueError(f"hook_name: got {', '.join(hooks)}; wanted each activation once")
        self.widths = tuple(int(model.width(hook)) for model, hook in self.places)
        several = count > 1
        self.hook_name: str | list[str] = every_hook if several else hooks[0]
        names = [model.name for model, _ in self.places]
        self.model_name: str | list[str] = names if len(ms) > 1 else ms[0].name

    @property
    def weights(self) -> str | None:
        """The digest of the models' weights, as ``fingerprint.of_model``."""
        return fingerprint.of_models(self.models)

    def activations(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] → [B, T, Σ widths], with one forward pass per model.

        Raises:
            ValueError: a hook does not hold one vector per token.
        """
        if len(self.places) == 1:
            parts = [self.models[0].activations(tokens, self.places[0][1])]
        elif len(self.models) == 1:
            parts = self.models[0].activations_at(tokens, [hook for _, hook in self.places])
        else:
            parts = [model.activations(tokens, hook) for model, hook in self.places]
        for part, width, (model, hook) in zip(parts, self.widths, self.places, strict=True):
            if part.shape != (*tokens.shape, width):
                raise ValueError(
                    f"hook_name: {hook!r} of {model.name!r} gave {list(part.shape)} for tokens "
                    f"{list(tokens.shape)}; wanted {[*tokens.shape, width]}. Choose a hook with one vector per token."
                )
        return parts[0] if len(parts) == 1 else torch.cat([part.to(parts[0].device) for part in parts], -1)


def as_list(values: T | Sequence[T]) -> list[T]:
    """A list of one or several; a string is one."""
    return list(values) if isinstance(values, (list, tuple)) else [values]  # pyright: ignore[reportReturnType]


def is_pattern(hook_name: str) -> bool:
    """Whether a hook name has a wildcard: ``*``, ``?`` or ``[…]``."""
    return not _WILDCARDS.isdisjoint(hook_name)


def matching(hook_name: str, model: HookedModel) -> list[str]:
    """The hooks of a model that a pattern stands for, in the model's order; a name without wildcards as it is.

    A wildcard stands for text without dots: ``model.layers.*`` is the output of every layer and of nothing within one,
    ``model.layers.*.mlp:in`` the input of every MLP, ``blocks.[0-3].hook_resid_post`` four hooks.

    Raises:
        ValueError: a pattern that matches no hook.
    """
    if not is_pattern(hook_name):
        return [hook_name]
    known = list(getattr(model, "hook_names", ()))
    pattern, end = _split(hook_name)
    found = []
    for name in known:
        parts, own_end = _split(name)
        if own_end == end and len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)):
            found.append(name)
    if not found:
        near = nearest(hook_name, known) or known[:3]
        raise ValueError(
            f"hook_name: no hook of {model.name!r} matches {hook_name!r}, in which a wildcard stands for text without "
            f"dots; nearest: {', '.join(near)}. All of them: `model.hook_names`, or `monosem hooks --model NAME`."
        )
    return found


def _split(hook_name: str) -> tuple[list[str], str]:
    """The parts between the dots, and the side of a module."""
    name, colon, side = hook_name.partition(":")
    return name.split("."), colon + side


def check_tokenizers(models: Sequence[HookedModel]) -> None:
    """Raise ValueError unless an id stands for the same text in all models, as far as they show it."""
    first = models[0]
    for other in models[1:]:
        same = (first.d_vocab, first.bos_id) == (other.d_vocab, other.bos_id)
        if same and hasattr(first, "token_bytes") and hasattr(other, "token_bytes"):
            same = all(first.token_bytes(i) == other.token_bytes(i) for i in range(first.d_vocab))  # pyright: ignore
        if not same:
            raise ValueError(
                f"model: {first.name!r} and {other.name!r} do not share a tokenizer; wanted models that read text as "
                "the same tokens, so that their activations belong together. Choose models trained with one tokenizer."
            )
