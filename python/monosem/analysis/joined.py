"""A model as a transcoder or a crosscoder sees it: one hook for all that is read, and one that is reconstructed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from monosem import ops
from monosem.analysis.unit_rows import in_unit_rows
from monosem.data.sites import Sites
from monosem.nn import Crosscoder
from monosem.ops import SparseCode

if TYPE_CHECKING:
    from monosem.data.protocols import LanguageModel


class Joined:
    """Behind a single hook name: what the encoder reads, and the direct path from what the decoder writes.

    Everything else is that of the model whose activation is reconstructed.

    Args:
        reads: the activations that the encoder reads, side by side.
        target: the model and hook whose activation is reconstructed.
        name: of the single hook, for pages and files.

    Attributes:
        models: all of them, each once.
        hook_in: for a transcoder, the hook that the encoder reads in the pass of the target's model; else None.
    """

    def __init__(self, reads: Sites, target: tuple[LanguageModel, str], name: str) -> None:
        self.reads, self.joined_hook = reads, name
        self.target_model, self.hook_out = target
        self.models = reads.models
        self.name = ", ".join(model.name for model in reads.models)
        self.hook_names = [name]
        own = reads.places.index(target) if target in reads.places else None
        self.hook_in = reads.places[0][1] if own is None else None
        self._columns = None if own is None else slice(sum(reads.widths[:own]), sum(reads.widths[: own + 1]))

    def __getattr__(self, name: str) -> Any:
        if name in ("target_model", "__setstate__"):  # not made yet
            raise AttributeError(name)
        return getattr(self.target_model, name)

    def width(self, hook_name: str) -> int:
        """Of all that the encoder reads."""
        self._check(hook_name)
        return sum(self.reads.widths)

    def activations(self, tokens: Tensor, hook_name: str) -> Tensor:
        """What the encoder reads: [B, T, width]."""
        self._check(hook_name)
        return self.reads.activations(tokens)

    def read_and_target(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder reads, and what is reconstructed: [B, T, width] and [B, T, d_out]."""
        if self._columns is not None:
            x = self.reads.activations(tokens)
            return x, x[..., self._columns]
        x, y = self.target_model.activations_at(tokens, [cast("str", self.hook_in), self.hook_out])
        return x, y

    def logit_directions(self, hook_name: str) -> Tensor:
        """From the activation that is reconstructed: [d_out, d_vocab]."""
        self._check(hook_name)
        return self.target_model.logit_directions(self.hook_out)

    def check_written(self, hook_name: str) -> None:
        """As of the model, at the hook whose activation is reconstructed."""
        self._check(hook_name)
        self.target_model.check_written(self.hook_out)

    def _check(self, hook_name: str) -> None:
        if hook_name != self.joined_hook:
            raise ValueError(f"hook_name: got {hook_name!r}; wanted {self.joined_hook!r}, the hook of this dictionary")


def target_of(model: LanguageModel, hook_name: str) -> tuple[LanguageModel, str]:
    """The model and hook at which a dictionary's reconstruction takes the place of the activation."""
    return (model.target_model, model.hook_out) if isinstance(model, Joined) else (model, hook_name)


def read_and_target(model: LanguageModel, tokens: Tensor, hook_name: str) -> tuple[Tensor, Tensor]:
    """The activations that a dictionary reads, and those that it reconstructs: the same, where it is one hook."""
    if isinstance(model, Joined):
        return model.read_and_target(tokens)
    x = model.activations(tokens, hook_name)
    return x, x


def by_hook(model: LanguageModel, activations: Tensor, targets: Tensor) -> list[Tensor]:
    """What ``read_and_target`` gave, one tensor for each activation that stood in a training batch."""
    if not isinstance(model, Joined):
        return [activations]
    read = list(activations.split(list(model.reads.widths), dim=-1))
    return read if model.hook_in is None else [*read, targets]


class CrosscoderSource:
    """A crosscoder at one of its sources: its features, and the part of the decoder that belongs to that source.

    Values are in units of the whole row, over all sources (``unit_rows``), so that they do not depend on the source; a
    row of ``W_dec`` is as long as the source's share of the norm.

    Attributes:
        crosscoder: the dictionary itself.
        source: the number of the source.
        W_enc_rows: [d_sae, width of all sources]; W_dec, b_dec: [d_sae, d] and [d], of this source.
    """

    def __init__(self, crosscoder: Crosscoder, source: int) -> None:
        if not 0 <= source < crosscoder.cfg.n_sources:
            raise ValueError(f"source: got {source}; wanted 0 to {crosscoder.cfg.n_sources - 1}, a source's number")
        self.crosscoder, self.source, self.cfg, self.metadata = (
            crosscoder,
            source,
            crosscoder.cfg,
            crosscoder.metadata,
        )
        self._all = in_unit_rows(crosscoder)
        self.W_dec = crosscoder.of_sources(self._all.W_dec.detach())[:, source].contiguous()
        self.b_dec = crosscoder.of_sources(self._all.b_dec.detach())[source]

    @property
    def W_enc_rows(self) -> Tensor:
        return self._all.W_enc_rows

    def prepare(self) -> CrosscoderSource:
        """As ``SAE.prepare``."""
        self.crosscoder.prepare()
        return self

    def encode(self, x: Tensor) -> SparseCode:
        """The active features of x [..., width of all sources]."""
        return self._all.encode(x)

    def decode(self, code: SparseCode) -> Tensor:
        """The reconstruction [..., d] of this source."""
        return ops.decode(code, self.W_dec, self.b_dec)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))

    def state_dict(self) -> dict[str, Any]:
        """The parameters of the crosscoder: its fingerprint does not depend on the source."""
        return self.crosscoder.state_dict()
