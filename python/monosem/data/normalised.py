"""A model in which the activation at one hook is normalised token by token, as some dictionaries were trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from monosem.data.adapter import Replace
    from monosem.data.protocols import LanguageModel

LAYER_NORM, UNIT_NORM = "layer_norm", "constant_norm_rescale"  # as SAELens calls them
EPSILON = 1e-5


def normalise(x: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """x [..., d] normalised token by token, with what undoes it: ``(n, scale, shift)``, ``x ≈ n·scale + shift``.

    ``layer_norm``: the mean over d is taken off, and the result divided by the standard deviation (of d − 1 degrees of
    freedom) + 1e-5; that is not added when it is undone. ``constant_norm_rescale``: norm √d. SAELens and OpenAI's
    sparse_autoencoder compute these.

    Raises:
        ValueError: another kind.
    """
    if kind == LAYER_NORM:
        shift = x.mean(-1, keepdim=True)
        scale = x.std(-1, keepdim=True)
        return (x - shift) / (scale + EPSILON), scale, shift
    if kind == UNIT_NORM:
        scale = x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny) / x.shape[-1] ** 0.5
        return x / scale, scale, torch.zeros_like(scale)
    raise ValueError(f"kind: got {kind!r}; wanted {LAYER_NORM!r} or {UNIT_NORM!r}")


class NormalisedTokens:
    """A language model whose activation at one hook is read and written in normalised form; all else is the model's.

    A dictionary of such activations can be used at the hook as any other: the losses of the model are those with its
    reconstruction, each token's normalisation undone. Its explained variance is that of normalised activations.

    A token whose activation is left as it is keeps it to the last bit. Zeros in its place stay zeros.
    """

    def __init__(self, model: LanguageModel, hook_name: str, kind: str) -> None:
        self._model, self.normalised_hook, self.normalisation = model, hook_name, kind

    def __getattr__(self, name: str) -> Any:
        if name in ("_model", "__setstate__"):  # not made yet
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def compared_losses(self) -> Callable[..., Any]:
        """As of the model, which need not have it; what is put at the hook is normalised, as what is handed over."""
        compared: Any = getattr(self._model, "compared_losses")  # noqa: B009  # no attribute that the protocol names
        return lambda tokens, replacements: compared(tokens, [self._undone(each) or {} for each in replacements])

    def activations(self, tokens: Tensor, hook_name: str) -> Tensor:
        """As of the model; normalised at the hook, in fp32."""
        return self.activations_at(tokens, [hook_name])[0]

    def activations_at(self, tokens: Tensor, hook_names: Sequence[str]) -> list[Tensor]:
        """As of the model; normalised at the hook, in fp32."""
        values = self._model.activations_at(tokens, hook_names)
        pairs = zip(hook_names, values, strict=True)
        return [normalise(x.float(), self.normalisation)[0] if self._is_own(name) else x for name, x in pairs]

    def token_losses(self, tokens: Tensor, replace: dict[str, Replace] | None = None) -> Tensor:
        """As of the model; what is put at the hook is normalised, as what is handed over."""
        return self._model.token_losses(tokens, self._undone(replace))

    def generate(
        self,
        tokens: Sequence[int],
        length: int,
        temperature: float = 0.8,
        seed: int = 0,
        replace: dict[str, Replace] | None = None,
    ) -> list[int]:
        """As of the model; what is put at the hook is normalised, as what is handed over."""
        return self._model.generate(tokens, length, temperature, seed, self._undone(replace))

    def _is_own(self, hook_name: str) -> bool:
        return hook_name == self.normalised_hook

    def _undone(self, replace: dict[str, Replace] | None) -> dict[str, Replace] | None:
        if not replace:
            return replace
        return {name: self._around(change) if self._is_own(name) else change for name, change in replace.items()}

    def _around(self, change: Replace) -> Callable[[Tensor], Tensor]:
        def at(x: Tensor) -> Tensor:
            n, scale, shift = normalise(x, self.normalisation)
            y = change(n)
            out = torch.where((y == n).all(-1, keepdim=True), x, y * scale + shift)
            return torch.where((y == 0).all(-1, keepdim=True), 0, out)

        return at
