"""Structural types: the methods that an argument must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class TextEncoder(Protocol):
    """A model or a tokenizer that makes token ids of texts."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS."""
        ...


class WithTokens(Protocol):
    """Anything with ``tokens`` [rows, n_ctx]: ``TokenRows``."""

    @property
    def tokens(self) -> Tensor | np.ndarray: ...


def predicts_next(model: object) -> bool:
    """Whether a model predicts the next token; an encoder does not (``data.hugging_face``)."""
    return getattr(model, "predicts", True)


def of_texts(model: object) -> bool:
    """Whether a model has one vector per text in place of one per token (``data.vectors``)."""
    return getattr(model, "of_texts", False)


def check_suits(model: Any, what: str, *, predicts: bool = False) -> None:
    """Raise ValueError for vectors of whole texts, and with ``predicts`` for every model without a next token.

    Args:
        what: what needs the tokens, for the error: ``"proxies: they match tokens"``.
    """
    if of_texts(model):
        raise ValueError(
            f"{what}; {model.name!r} is a folder of vectors that were computed elsewhere, one per text. `monosem "
            "features` shows the texts of each feature."
        )
    if predicts and not predicts_next(model):
        raise ValueError(
            f"{what}; {model.name!r} predicts no next token. `monosem features` shows the tokens of each feature."
        )


Tokens = Tensor | np.ndarray | Sequence[Sequence[int]] | WithTokens
"""Integers [rows, n_ctx], each row one context."""


class HookedModel(Protocol):
    """A model whose activations can be read at hooks: all that the harvest of activations needs.

    Attributes:
        name: the name that the user gave.
        n_ctx: longest context, in tokens, BOS included.
        d_vocab: number of logits.
        bos_id: the token that begins every context.
    """

    @property
    def name(self) -> str: ...

    @property
    def n_ctx(self) -> int: ...

    @property
    def d_vocab(self) -> int: ...

    @property
    def bos_id(self) -> int: ...

    def activations(self, tokens: Tensor, hook_name: str) -> Tensor:
        """Activations at a hook: tokens [B, T] → [B, T, d_in], in the dtype that the model computes in."""
        ...

    def activations_at(self, tokens: Tensor, hook_names: Sequence[str]) -> list[Tensor]:
        """``activations`` at each of several hooks, in one forward pass."""
        ...

    def width(self, hook_name: str) -> int:
        """d_in of a hook. ValueError for a hook that the model does not have."""
        ...


class LanguageModel(HookedModel, TextEncoder, Protocol):
    """A language model behind hook names, as ``ms.load_model`` gives it. ``data.adapter.Model`` is one.

    One that also has ``compared_losses``, as ``data.adapter.Model``, is evaluated by the divergence of its predictions.

    Attributes:
        hook_names: every hook, named as TransformerLens names them, or as the modules of a Hugging Face model.
        device: where the weights are.
    """

    @property
    def hook_names(self) -> list[str]: ...

    @property
    def device(self) -> torch.device: ...

    def token_losses(self, tokens: Tensor, replace: dict[str, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        """Cross-entropy of each predicted token in nats, tokens [B, T] → [B, T − 1], with replaced activations."""
        ...

    def generate(
        self,
        tokens: Sequence[int],
        length: int,
        temperature: float = 0.8,
        seed: int = 0,
        replace: dict[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> list[int]:
        """``tokens`` and ``length`` sampled ones after them."""
        ...

    def logit_directions(self, hook_name: str) -> Tensor:
        """The direct path from a hook to the logits, fp32 [d_in, d_vocab]."""
        ...

    def check_written(self, hook_name: str) -> None:
        """Raise ValueError where a replacement at this hook would have no effect."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without BOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...

    def token_str(self, token: int) -> str:
        """A token for display."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes of the text that a token stands for."""
        ...

    def text_within(self, ids: Sequence[int]) -> str:
        """The text of tokens from the middle of a text."""
        ...
