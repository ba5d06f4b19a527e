"""A first look at a dictionary that was loaded: whether it fits the activations of its hook, on a little text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosem.analysis.crosscoder_metrics import evaluate_subject
from monosem.analysis.inputs import Subject, subject_of
from monosem.analysis.metrics import Evaluation
from monosem.analysis.scan import Block
from monosem.data.text import Document
from monosem.nn import SAE

if TYPE_CHECKING:
    from monosem.analysis.inputs import ModelLike
    from monosem.data.token_rows import TokenRows

CONTEXT = 128  # tokens per row, at most
PROSE = "en_prose"  # the source of the shipped text that dictionaries of the web know best
CHARACTERS = 16  # read per token, more than any tokenizer needs
SAMPLE = 256  # tokens on which other scales are tried
SCALES = tuple(2.0**e for e in range(-8, 9))
GAIN = 0.2  # share of the variance by which another scale has to be better
POOR = 0.5  # explained variance below which other scales are tried
DENSE = 0.2  # share of active features above which a code is not sparse
NORMS = (0.5, 2.0)  # usual norms of reconstructions, as a share of those of activations


@dataclass(frozen=True)
class Check:
    """What ``check`` measured.

    Attributes:
        evaluation: all figures of ``monosem.evaluate``.
        norm: mean norm of the activations that the dictionary reads.
        scale: factor on them with which most variance is explained, of those tried; 1 where none was tried.
        explained_at_scale: the variance that is explained there.
        warnings: what is evidently wrong, in words.
    """

    evaluation: Evaluation
    norm: float
    scale: float
    explained_at_scale: float
    warnings: tuple[str, ...]

    def table(self) -> str:
        """The figures and the warnings as text for a terminal."""
        e = self.evaluation
        lines = [
            f"{e.kind} of {e.d_sae:,} features on {e.hook_name} of {e.model}; {e.tokens:,} tokens",
            f"  L0                    {e.l0:10.2f}   of activations with a mean norm of {self.norm:.4g}",
            f"  explained variance    {e.explained_variance:10.2%}",
            f"  norms, x̂ / x          {e.norm_ratio:10.4f}",
            f"  CE loss recovered     {e.ce_loss_recovered:10.2%}   "
            f"clean {e.ce_clean:.4f}, SAE {e.ce_sae:.4f}, zero {e.ce_zero:.4f} nats",
        ]
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])


def check(
    sae: SAE,
    model: ModelLike = None,
    hook_name: str | None = None,
    *,
    hook_out: str | None = None,
    source: int | None = None,
    device_map: Any = None,
    text: str | Path | None = None,
    tokens: int = 2048,
) -> Check:
    """Print L0, explained variance and CE loss recovered on a little text, with a warning where something is wrong.

    A dictionary that is read at another scale, at another hook or in another model than in its training explains little
    or nothing. Where it does, factors on the activations are tried, and one with which it explains more is told.

    Args:
        sae: a dictionary, as of ``monosem.load`` or ``monosem.from_pretrained``.
        model, hook_name, hook_out, source, device_map: as of ``analysis.inputs.load_subject``; by default those that
            the dictionary names.
        text: JSON lines; None: the English prose that ships with monosem.
        tokens: read about this many.

    Raises:
        ValueError: the dictionary does not say its model or hook and neither does the call, or does not fit the hook.
    """
    subject = subject_of(sae, "sae", model, hook_name, hook_out=hook_out, source=source, device_map=device_map)
    rows = _rows(subject, text, tokens)
    xs: list[Tensor] = []
    targets: list[Tensor] = []

    def keep(block: Block) -> None:
        assert block.target is not None
        xs.append(block.x)
        targets.append(block.target)

    evaluation = evaluate_subject(subject, rows, tokens=tokens, observers=[keep], progress=False)
    x, target = torch.cat(xs), torch.cat(targets)
    scale, explained = 1.0, evaluation.explained_variance
    if not evaluation.explained_variance >= POOR:
        scale, explained = _best_scale(subject, x[:SAMPLE], target[:SAMPLE])
    norm = float(x.float().norm(dim=-1).mean())
    found = Check(
        evaluation=evaluation,
        norm=norm,
        scale=scale,
        explained_at_scale=explained,
        warnings=tuple(_warnings(evaluation, scale, explained)),
    )
    print(found.table())
    return found


def _rows(subject: Subject, text: str | Path | None, tokens: int) -> TokenRows:
    """The beginning of the text: enough for so many tokens."""
    from monosem.data.sample import stream_documents
    from monosem.data.token_rows import pack_rows
    from monosem.data.vectors import own_rows

    if (own := own_rows(subject.model, text, "all", None)) is not None:
        return own
    documents = stream_documents("sample" if text is None else text, "all")
    some, characters = [], 0
    for document in documents:
        if text is None and document.source != PROSE:
            continue
        some.append(document)
        characters += len(document.text) if isinstance(document, Document) else 0
        if characters > CHARACTERS * tokens:
            break
    return pack_rows(some, subject.model, min(CONTEXT, subject.model.n_ctx))


@torch.no_grad()
def _best_scale(subject: Subject, x: Tensor, target: Tensor) -> tuple[float, float]:
    """(factor on the activations with which most variance is explained, that share)."""
    centred = (target.double() - target.double().mean(0)).square().sum()
    reconstructs = subject.sae.cfg.reconstructs_its_input
    shares = {}
    for scale in SCALES:
        y = subject.sae(x * scale) / (scale if reconstructs else 1.0)
        shares[scale] = 1 - float((target.double() - y.double()).square().sum() / centred)
    best = max(SCALES, key=lambda scale: shares[scale] if math.isfinite(shares[scale]) else -math.inf)
    return (best, shares[best]) if shares[best] > shares[1.0] + GAIN else (1.0, shares[1.0])


def _warnings(e: Evaluation, scale: float, explained: float) -> list[str]:
    found = []
    if scale != 1 and explained > GAIN:
        found.append(
            f"the activations seem to be on another scale than in training: multiplied by {scale:g}, {explained:.0%} "
            f"of their variance is explained instead of {e.explained_variance:.0%}. See input_scale of monosem.load, "
            "and whether the model's weights are folded as they were."
        )
    elif not e.explained_variance > 0:
        found.append(
            f"the reconstruction is worse than the mean activation (explained variance {e.explained_variance:.0%}): "
            "another hook, another model, or another scale than in training"
        )
    if e.l0 == 0:
        found.append("no feature is active on these tokens")
    elif e.l0 > DENSE * e.d_sae:
        found.append(f"{e.l0 / e.d_sae:.0%} of all features are active on a token; wanted a few")
    if not NORMS[0] <= e.norm_ratio <= NORMS[1]:
        found.append(f"reconstructions are {e.norm_ratio:.3g} times as long as the activations; wanted about 1")
    if e.ce_loss_recovered < 0:
        found.append("the model predicts worse with the reconstruction than with zeros in its place")
    return found
