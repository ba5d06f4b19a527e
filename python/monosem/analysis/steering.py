"""Changing features while a model runs: pin, add, ablate; the change goes in at the hook, as a ``replace`` function.

*Towards Monosemanticity* does both of its causal checks this way: a feature pinned to its maximum while the model
writes ("pinned sampling"), and a feature ablated on every token of a text, with the change of each token's
log-likelihood ("feature ablations").
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from monosem.analysis.joined import CrosscoderSource, Joined
from monosem.analysis.unit_rows import Rescaled, check_reconstructs, in_unit_rows
from monosem.data.counted import BY_NAME, SkipTokens, counted, skipped_ids
from monosem.data.norm_limit import as_trained
from monosem.data.protocols import LanguageModel
from monosem.nn import SAE, Dictionary
from monosem.ops import SparseCode
from monosem.ops.precision import as_given

KINDS = ("pin", "add", "ablate")
Replace = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Edit:
    """The edit of one feature's activation f on every token.

    ``pin``: f' = value. ``add``: f' = f + value. ``ablate``: f' = 0. Values are in the units of the activation (a
    length, also where norms of decoder rows are free) and may be negative: the direction is then subtracted.
    """

    feature: int
    kind: str
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: got {self.kind!r}; wanted one of {', '.join(KINDS)}")
        if self.kind == "ablate" and self.value:
            raise ValueError(f"value: got {self.value} for an ablation; wanted none (use 'pin' to set a value)")
        if not abs(self.value) < float("inf"):
            raise ValueError(f"value: got {self.value}; wanted a finite number")

    def __str__(self) -> str:
        said = {"pin": f"pinned to {self.value:.3g}", "add": f"{self.value:+.3g}", "ablate": "ablated"}
        return f"#{self.feature} {said[self.kind]}"


class Steering:
    r"""A function from activations to edited activations: x' = x + Σ_i (f'_i − f_i(x))·d_i.

    That is the reconstruction of the edited code plus the error x − x̂, which the edit does not touch (``error="keep"``,
    the paper's way: with no edits the model is unchanged). With ``error="drop"`` the reconstruction of the edited code
    stands alone: x' = x̂ + Σ_i (f'_i − f_i(x))·d_i.

    Give it to any model behind the adapter: ``model.generate(prompt, 50, replace={hook: Steering(sae, edits)})``,
    ``model.token_losses(tokens, {hook: ...})``. It is also a hook that TransformerLens takes as it is:
    ``model.run_with_hooks(tokens, fwd_hooks=[(hook, Steering(sae, edits))])``. A transcoder reads one hook and changes
    the other, y' = y + Σ_i (f'_i − f_i(x))·d_i: ``replacing`` gives the functions for both.

    Args:
        sae: a dictionary (or a ``NeuronBasis``), anything with ``encode``, ``decode``, ``W_dec``, ``cfg``.
        edits: at most one of each feature.
        error: ``"keep"`` or ``"drop"``.
        skip_positions: leading positions that stay as they are (1: the BOS, on which dictionaries are not trained).
            So do tokens beyond the limit on the norm with which the dictionary was trained, if it had one.

    Raises:
        ValueError: an unknown feature, two edits of one feature, or another ``error``.
    """

    def __init__(
        self, sae: Dictionary, edits: Sequence[Edit] = (), *, error: str = "keep", skip_positions: int = 1
    ) -> None:
        d_sae = sae.cfg.d_sae
        for edit in edits:
            if not 0 <= edit.feature < d_sae:
                raise ValueError(f"feature: got {edit.feature}; wanted 0 to {d_sae - 1}")
        features = [e.feature for e in edits]
        if twice := sorted({f for f in features if features.count(f) > 1}):
            raise ValueError(f"edits: feature {twice[0]} is edited twice; wanted one edit per feature")
        if error not in ("keep", "drop"):
            raise ValueError(f"error: got {error!r}; wanted 'keep' or 'drop'")
        if skip_positions < 0:
            raise ValueError(f"skip_positions: got {skip_positions}; wanted an integer ≥ 0")
        if isinstance(sae, CrosscoderSource):
            raise ValueError(
                f"sae: got {sae.cfg.kind}, whose features are read from several activations at once; wanted a "
                "dictionary or a transcoder, of one forward pass. Look at a crosscoder by `monosem evaluate`, "
                "`features` and `explain`."
            )
        sae = in_unit_rows(sae)
        if isinstance(sae, (SAE, Rescaled)):
            sae.prepare()  # text is generated a token at a time
        self.sae, self.edits, self.error, self.skip_positions = sae, tuple(edits), error, skip_positions
        self.limit = as_trained(getattr(sae, "metadata", {}))  # anything with ``encode`` may be steered
        device = sae.W_dec.device
        self._slot = torch.full((d_sae,), -1, dtype=torch.int64, device=device)
        self._slot[torch.tensor(features, dtype=torch.int64, device=device)] = torch.arange(
            len(features), device="cpu"
        ).to(device)
        self._directions = sae.W_dec.detach()[torch.tensor(features, dtype=torch.int64, device=device)]
        # f' = keep·f + value, so f' − f = (keep − 1)·f + value
        self._keep = torch.tensor([float(e.kind == "add") for e in edits], dtype=torch.float32, device=device)
        self._value = torch.tensor([e.value for e in edits], dtype=torch.float32, device=device)

    def __call__(self, x: Tensor, hook: Any = None) -> Tensor:
        """x [..., T, d_in] → the same shape, dtype and device. ``hook`` (TransformerLens hands it over) is not used."""
        check_reconstructs(self.sae)
        return self._changed(x, x)

    def from_position(self, start: int) -> Steering:
        """The same for the tokens of a context from position ``start`` on, as they come when text is written."""
        later = copy.copy(self)
        later.skip_positions = max(0, self.skip_positions - start)
        return later

    @torch.no_grad()
    @as_given
    def _changed(self, x: Tensor, y: Tensor) -> Tensor:
        """y [..., T, d_out] with the edits of the features of x [..., T, d_in]; y is x but for a transcoder."""
        if x.ndim < 2 or x.shape[-1] != self.sae.cfg.d_in:
            raise ValueError(
                f"x: got shape {list(x.shape)}; wanted [..., T, d_in={self.sae.cfg.d_in}], the hook of the dictionary"
            )
        weights = self._directions
        read, part = x[..., self.skip_positions :, :], y[..., self.skip_positions :, :]
        if not part.numel():
            return y
        flat = read.reshape(-1, x.shape[-1]).to(weights.device, weights.dtype)
        code = self.sae.encode(flat)
        if self.error == "keep":
            output = flat if y is x else part.reshape(-1, y.shape[-1]).to(weights.device, weights.dtype)
        else:  # a skip connection reads x too
            output = self.sae.decode(code) if self.sae.cfg.reconstructs_its_input else self.sae(flat)
        if self.edits:
            output = output + ((self._keep - 1) * self._activations(code) + self._value).to(weights.dtype) @ weights
        out = y.clone()
        out[..., self.skip_positions :, :] = output.view(part.shape).to(y)
        if self.limit is None:
            return out
        read_together = x.chunk(len(self.limit.medians), -1) if y is x else [x, y]  # those of a crosscoder are as wide
        return torch.where(self.limit.within(read_together).to(y.device)[..., None], out, y)

    def replacing(self, model: LanguageModel, hook_name: str, mask: Tensor | None = None) -> dict[str, Replace]:
        """The functions to put into a pass of the model, by hook: this one, on the tokens of ``mask`` if given."""
        if not isinstance(model, Joined):
            return {hook_name: self if mask is None else self.where(mask)}
        read: list[Tensor] = []

        def reads(x: Tensor) -> Tensor:
            read[:] = [x]
            return x

        def writes(y: Tensor) -> Tensor:
            if not read:
                raise ValueError(
                    f"hook_out: {model.hook_out!r} is reached before {model.hook_in!r}, whose features are to change "
                    "it; wanted a transcoder of a later activation. Choose other hooks."
                )
            changed = self._changed(read.pop(), y)
            return changed if mask is None else torch.where(mask.to(y.device)[..., None], changed, y)

        return {cast("str", model.hook_in): reads, model.hook_out: writes}

    def where(self, mask: Tensor) -> Callable[..., Tensor]:
        """The same on the tokens of ``mask`` (bool [..., T]); the others stay as they are."""

        def edited(x: Tensor, hook: Any = None) -> Tensor:
            return torch.where(mask.to(x.device)[..., None], self(x), x)

        return edited

    def activations(self, x: Tensor) -> Tensor:
        """Activations of the edited features before the edit: x [N, d_in] → [N, edits], in the order of ``edits``."""
        return self._activations(self.sae.encode(x))

    def _activations(self, code: SparseCode) -> Tensor:
        values, indices, _ = code.csr()
        slot = self._slot[indices.long()]
        mine = slot >= 0
        out = values.new_zeros(code.n_tokens, len(self.edits))
        out[code.row_ids()[mine], slot[mine]] = values[mine]
        return out

    def __repr__(self) -> str:
        return f"Steering({', '.join(map(str, self.edits)) or 'nothing'}; error {self.error})"


def parse_edit(spec: str, kind: str, maximum: Callable[[int], float], names: Mapping[str, int] | None = None) -> Edit:
    """``FEATURE[=STRENGTH]`` as an edit.

    FEATURE is a number, or a name out of ``names`` (``base64``). STRENGTH is a multiple of the largest activation seen
    (``2x``, ``-0.5x``) or an activation (``7.5``); without one: ``1x``.

    Args:
        maximum: gives the largest activation seen of a feature; asked only where a multiple needs it.

    Raises:
        ValueError: neither a feature nor a strength can be read from it, or a multiple of a feature that never fired.
    """
    what, equals, strength = spec.partition("=")
    feature = _feature(what.strip(), names or {})
    if kind == "ablate":
        if equals:
            raise ValueError(f"ablate: got {spec!r}; wanted a feature alone (to set a value use --pin {spec})")
        return Edit(feature, kind)
    strength = strength.strip() if equals else "1x"
    try:
        number = float(strength.removesuffix("x"))
    except ValueError:
        raise ValueError(
            f"{kind}: got {spec!r}; wanted FEATURE=STRENGTH, for example 123=2x (twice the largest activation seen) "
            "or 123=7.5 (an activation)"
        ) from None
    if strength.endswith("x"):
        top = maximum(feature)
        if top <= 0:
            raise ValueError(
                f"{kind}: feature {feature} never fired on the text that was read, so a multiple of its maximum is "
                f"undefined; read more text, or give an activation ({what}=3)"
            )
        number *= top
    return Edit(feature, kind, number)


def _feature(what: str, names: Mapping[str, int]) -> int:
    if what.isdecimal():
        return int(what)
    known = {name.lower(): feature for name, feature in names.items()}
    if what.lower() in known:
        return known[what.lower()]
    said = f", or a name: {', '.join(names)}" if names else ""
    raise ValueError(f"feature: got {what!r}; wanted the number of a feature{said}")


@dataclass(frozen=True)
class Sample:
    """One seed, with and without: token ids after the prompt, and their text."""

    seed: int
    unsteered: list[int]
    steered: list[int]
    unsteered_text: str
    steered_text: str


def side_by_side(
    model: LanguageModel,
    hook_name: str,
    steering: Steering,
    prompt: str | Sequence[int],
    *,
    samples: int = 10,
    length: int = 48,
    temperature: float = 1.0,
    seed: int = 0,
    unsteered: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int], Any] | None = None,
) -> list[Sample]:
    """Write on from a prompt with and without steering, sample i with seed ``seed + i`` in both.

    Args:
        unsteered: continuations already made with the same seeds, not to make them again.
        progress: called with the number of tokens written.
    """
    if samples < 1 or length < 1:
        raise ValueError(f"samples, length: got {samples}, {length}; wanted both at least 1")
    ids = model.encode(prompt) if isinstance(prompt, str) else list(prompt)
    ids = ids if ids[:1] == [model.bos_id] else [model.bos_id, *ids]
    out = []
    for i in range(samples):
        texts = []
        for replace in (None, steering.replacing(model, hook_name)):
            if replace is None and unsteered is not None:
                texts.append(list(unsteered[i]))
                continue
            texts.append(model.generate(ids, length, temperature, seed + i, replace)[len(ids) :])
            if progress is not None:
                progress(length)
        out.append(Sample(seed + i, *texts, *(model.decode(t) for t in texts)))
    return out


def log_likelihood_change(
    model: LanguageModel, hook_name: str, tokens: Tensor, steering: Steering, skip_tokens: SkipTokens = BY_NAME
) -> Tensor:
    """log P(token | …) with steering minus without, in nats: tokens [B, T] → [B, T − 1].

    Entry t belongs to token t + 1. Ablating a feature lowers it where the feature had helped to predict the token
    (*Towards Monosemanticity*, "Feature Ablations": on all tokens of the context, the error term kept). Tokens that do
    not count (``data.counted``) keep their activation.
    """
    ids = skipped_ids(model, skip_tokens)
    mask = torch.from_numpy(counted(tokens.cpu().numpy(), steering.skip_positions, ids))
    return model.token_losses(tokens) - model.token_losses(tokens, steering.replacing(model, hook_name, mask))
