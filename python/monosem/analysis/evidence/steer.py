"""Steering: does a feature cause the text that it stands for? Pinned sampling and ablation, label by label.

*Towards Monosemanticity*: pinned to its maximum while the model writes on from ``1,2,3,4,5,6,7,8,9,10``, the base64
feature makes base64 and the Arabic feature Arabic; ablated, it lowers the log-likelihood of just those tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monosem.analysis.evidence.steer_judges import Judge
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.scan import Rows
from monosem.analysis.sources import all_groups, named, paper_groups, sources_read
from monosem.analysis.steering import Edit, Steering, log_likelihood_change, side_by_side
from monosem.analysis.windows import is_right_to_left, show
from monosem.data.counted import counted, skipped_ids
from monosem.data.protocols import LanguageModel
from monosem.ops.precision import as_given

# The paper's prompt; and one in prose, for a model that may go on from a list of numbers with anything.
PROMPTS = ("1,2,3,4,5,6,7,8,9,10", "Once upon a time there was a")
STEERED = ("base64", "Arabic")  # the labels that the paper steers by
MULTIPLES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
JUDGED = (
    "a sample counts when at least half of its tokens score as the label's text does on its log-likelihood-ratio proxy"
)
HIT = 0.5  # a sample counts when at least this share of its tokens is judged to be of the label
_APART = 10_000  # the seeds that choose the strength, and those that are reported, have nothing in common


@dataclass(frozen=True)
class Effect:
    """Mean change of log P(next token), in nats, when the feature is ablated on every token.

    ``label``: on the predicted tokens of the label; ``other``: on those of other kinds of text in as many contexts;
    ``active``: on the tokens predicted where the feature was active. ``tokens_*``: how many there were.
    """

    label: float
    other: float
    active: float
    tokens_label: int
    tokens_other: int
    tokens_active: int


@dataclass(frozen=True)
class Case:
    """One label and the feature that stands for it.

    ``correlation``, ``precision``, ``recall``: of the feature with the label. ``strength`` = ``multiple`` · ``maximum``
    is what it was pinned to. ``runs``: for each prompt how many samples were judged to be of the label (``hits``;
    ``control_hits`` without steering), and the samples. ``sweep`` has the share of hits at each multiple, for the last
    prompt and on other seeds: the multiple with the largest mean share of the label's tokens was taken.
    ``passage``: tokens of the text with the feature's activation and the change of their log-likelihood.
    """

    label: str
    feature: int
    correlation: float
    precision: float
    recall: float
    maximum: float
    multiple: float
    strength: float
    runs: tuple[dict[str, Any], ...]
    sweep: dict[str, Any]
    effect: Effect
    passage: dict[str, Any]
    top_logits: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class SteeringResult:
    """The settings of the steering and its effects, label by label."""

    model: str
    hook_name: str
    kind: str
    d_sae: int
    tokens: int
    length: int
    temperature: float
    error: str
    judged: str
    cases: tuple[Case, ...]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The figures for the terminal."""
        lines = [
            f"{self.kind}, {self.d_sae:,} features of {self.hook_name} of {self.model}; {self.length} tokens at "
            f"temperature {self.temperature:g}, error term {self.error}"
        ]
        for c in self.cases:
            lines.append(f"{c.label}: feature #{c.feature} pinned to {c.strength:.1f}, {c.multiple:g}x its maximum")
            for run in c.runs:
                n = len(run["samples"])
                lines.append(
                    f"  after {run['prompt']!r}: {run['hits']} of {n} samples judged {c.label}; without steering "
                    f"{run['control_hits']} of {n}"
                )
            lines.append(
                f"  ablated: {c.effect.label:+.4f} nats per token on {c.label}, {c.effect.active:+.4f} where it fires, "
                f"{c.effect.other:+.5f} on other text"
            )
        return "\n".join(lines)


def measure(
    subject: Subject,
    index: FeatureIndex,
    *,
    judges: Mapping[str, Judge],
    groups: Mapping[str, Sequence[int]],
    prompts: Sequence[str] = PROMPTS,
    samples: int = 10,
    length: int = 48,
    temperature: float = 1.0,
    error: str = "keep",
    multiples: Sequence[float] = MULTIPLES,
    trials: int = 5,
    contexts: int = 16,
    skip_positions: int = 1,
    seed: int = 0,
    judged: str = "",
    progress: bool = False,
) -> SteeringResult:
    """Steer by the feature of each label that ``groups`` and ``judges`` share.

    Args:
        index: of the dictionary (``monosem.analysis.index``): maxima, correlations with the sources, the text.
        judges: {label: judge}; what text of that label looks like.
        groups: {label: sources}, numbers of the index's sources that bear the label.
        prompts: what the model writes on from; the strength is chosen on the last.
        samples: continuations of each prompt that are reported, with and without steering, seeds from ``seed`` on.
        multiples: of the maximum, tried on ``trials`` other seeds to choose the strength.
        contexts: rows with most tokens of the label, and as many of other text, on which the feature is ablated.
        judged: how the judges decide, in words.

    Raises:
        ValueError: no label has both a judge and text, or no feature follows one.
    """
    if not groups:
        raise ValueError(
            f"labels: no feature follows a label of this text ({', '.join(index.sources[:12])}), so there is none to "
            "steer by; name features by their numbers (--pin 12=2x), or read other text"
        )
    labels = [label for label in judges if label in groups and float(index.moments.tokens[list(groups[label])].sum())]
    if not labels:
        raise ValueError(
            f"labels: none of {', '.join(judges) or 'no labels'} has text here (sources: {', '.join(index.sources)})"
        )
    runs = len(labels) * len(multiples) * trials + (len(labels) + 1) * len(prompts) * samples
    plain: dict[str, list[list[int]]] = {}
    cases = []
    with tqdm(total=runs * length, unit="tok", desc="steering", disable=not progress) as bar:

        def write(
            label: str, pinned: Steering, prompt: str, count: int, first: int, unsteered: Sequence[Sequence[int]] | None
        ) -> list[Any]:
            pairs = side_by_side(
                subject.model,
                subject.hook_name,
                pinned,
                prompt,
                samples=count,
                length=length,
                temperature=temperature,
                seed=first,
                unsteered=unsteered,
                progress=bar.update,
            )
            judge = judges[label]
            return [(s, judge(s.unsteered) if s.unsteered else 0.0, judge(s.steered)) for s in pairs]

        for label in labels:
            feature = cause(subject, index, groups[label])
            top = float(index.maximum[feature])
            at = {
                m: Steering(subject.sae, [Edit(feature, "pin", m * top)], error=error, skip_positions=skip_positions)
                for m in multiples
            }
            sweep: dict[str, Any] = {"multiples": list(multiples), "hits": [], "shares": [], "trials": trials}
            for m in multiples:
                tried = write(label, at[m], prompts[-1], trials, seed + _APART, [[]] * trials)
                sweep["hits"].append(sum(share >= HIT for *_, share in tried) / trials)
                sweep["shares"].append(sum(share for *_, share in tried) / trials)
            multiple = _best(sweep)
            runs_of_label = []
            for prompt in prompts:
                judged_samples = write(label, at[multiple], prompt, samples, seed, plain.get(prompt))
                plain[prompt] = [s.unsteered for s, *_ in judged_samples]
                runs_of_label.append(_run(prompt, judged_samples))
            effect, passage = ablation(subject, index, feature, groups[label], contexts, error, skip_positions)
            d = index.moments.describe(label, groups[label], feature)
            cases.append(
                Case(
                    label=label,
                    feature=feature,
                    correlation=d.correlation,
                    precision=d.precision,
                    recall=d.recall,
                    maximum=top,
                    multiple=multiple,
                    strength=multiple * top,
                    runs=tuple(runs_of_label),
                    sweep=sweep,
                    effect=effect,
                    passage=passage,
                    top_logits=_top_logits(subject, index, feature),
                )
            )
    return SteeringResult(
        model=subject.model.name,
        hook_name=subject.hook_name,
        kind=subject.sae.cfg.kind,
        d_sae=subject.sae.cfg.d_sae,
        tokens=index.tokens,
        length=length,
        temperature=temperature,
        error=error,
        judged=judged,
        cases=tuple(cases),
        sources=tuple(sources_read(index.rows)),
    )


def _run(prompt: str, judged: Sequence[Any]) -> dict[str, Any]:
    """One prompt's samples as a dict, with the shares of the label's tokens and how many are hits."""
    samples = [
        {
            "seed": s.seed,
            "unsteered": s.unsteered_text,
            "steered": s.steered_text,
            "unsteered_share": before,
            "steered_share": after,
        }
        for s, before, after in judged
    ]
    hits, control = (sum(t[f"{k}_share"] >= HIT for t in samples) for k in ("steered", "unsteered"))
    return {"prompt": prompt, "hits": hits, "control_hits": control, "samples": samples}


def _best(sweep: Mapping[str, Any]) -> float:
    """The multiple with the largest mean share of tokens in the trials; of equals the smallest."""
    rows = zip(sweep["shares"], sweep["multiples"], strict=True)
    return min(rows, key=lambda row: (-row[0], row[1]))[1]


def labels_of(index: FeatureIndex, labels: Sequence[str] | None = None) -> dict[str, list[int]]:
    """{label: its sources} to steer by.

    Args:
        labels: labels of the text; default base64 and Arabic, by which the paper steers, where the text has them, else
            the two labels that features follow best (none where none is followed).

    Raises:
        ValueError: the text has no such label.
    """
    groups = all_groups(index.sources)
    if labels is not None:
        return {known: groups[known] for known in (named(label, groups, "labels") for label in labels)}
    known = paper_groups(index.sources)
    papers = {label: known[label] for label in STEERED if label in known}
    best = sorted(index.moments.best(papers or groups), key=lambda b: -b.correlation)
    chosen = {b.label for b in (best if papers else best[: len(STEERED)])}
    return {label: members for label, members in (papers or groups).items() if label in chosen}


@as_given
def cause(subject: Subject, index: FeatureIndex, members: Sequence[int], block: int = 1024) -> int:
    """The feature to steer by: of those that follow the label, the one whose logit weights raise its tokens most.

    Candidates correlate with the label at least half as well as the best and fire on it at least half of the time. They
    are ranked by max_f · Σ_v (p(v | label) − p(v))·w_f(v): how much more the label's tokens gain than others when the
    feature is at its maximum, with logit weights w and token frequencies p. (Several features share a common kind of
    text; the one that fires most need not be the one that writes it.)
    """
    r = index.moments.correlations({"label": members})[:, 0]
    if not len(r) or float(r.max()) <= 0:
        names = ", ".join(index.sources[i] for i in members)
        raise ValueError(
            f"label: no feature follows {names} on this text: none fires more on it than elsewhere, or all of the text "
            "is of it; name a feature by its number"
        )
    active = index.moments.active
    precision = active[:, list(members)].sum(1) / active.sum(1).clamp_min(1)
    close = ((r >= 0.5 * r.max()) & (precision >= 0.5) & (r > 0)).nonzero().flatten()
    if not len(close):
        return int(r.argmax())
    gain = _frequency(index.rows, members, subject.model.d_vocab) - _frequency(index.rows, None, subject.model.d_vocab)
    toward = subject.model.logit_directions(subject.hook_name).float() @ gain.to(subject.model.device)
    scores = subject.sae.W_dec.detach()[close].float().cpu() @ toward.cpu() * index.maximum[close]
    return int(close[scores.argmax()])


def _frequency(rows: Rows, members: Sequence[int] | None, d_vocab: int) -> Tensor:
    tokens = np.asarray(rows.tokens)[:, 1:]
    if members is not None:
        tokens = tokens[np.isin(np.asarray(rows.source)[:, 1:], list(members))]
    counts = torch.from_numpy(np.bincount(tokens.reshape(-1).astype(np.int64), minlength=d_vocab)).float()
    return counts / counts.sum().clamp_min(1)


@as_given
def _top_logits(subject: Subject, index: FeatureIndex, feature: int, count: int = 8) -> tuple[tuple[str, float], ...]:
    from monosem.analysis.logits import used_vocabulary

    used = used_vocabulary(np.asarray(index.rows.tokens), subject.model.d_vocab).nonzero().flatten()
    directions = subject.model.logit_directions(subject.hook_name).float().cpu()[:, used]
    weights = subject.sae.W_dec.detach()[feature].float().cpu() @ directions
    top = (weights - weights.median()).topk(min(count, len(used)))
    return tuple((subject.model.token_str(int(used[i])), float(v)) for v, i in zip(*top, strict=True))


@torch.no_grad()
def ablation(
    subject: Subject,
    index: FeatureIndex,
    feature: int,
    members: Sequence[int],
    contexts: int,
    error: str = "keep",
    skip_positions: int = 1,
    batch: int = 16,
) -> tuple[Effect, dict[str, Any]]:
    """What ablating a feature does to the log-likelihood of text: means, and one passage token by token."""
    tokens, source = np.asarray(index.rows.tokens), np.asarray(index.rows.source)
    inside = np.isin(source, list(members))
    per_row = inside.mean(1)
    richest = np.argsort(-per_row, kind="stable")[:contexts]
    none = np.flatnonzero(per_row == 0)
    none = none[(2 * np.arange(min(contexts, len(none))) + 1) * len(none) // (2 * max(1, min(contexts, len(none))))]
    chosen = np.concatenate([richest, none])
    steering = Steering(subject.sae, [Edit(feature, "ablate")], error=error, skip_positions=skip_positions)
    left_out, parts = skipped_ids(subject.model), []
    for start in range(0, len(chosen), batch):
        ids = torch.from_numpy(tokens[chosen[start : start + batch]].astype(np.int64))
        x = subject.model.activations(ids, subject.hook_name)
        at = steering.activations(x.flatten(0, 1).to(subject.sae.W_dec)).view(ids.shape).cpu()
        at[torch.from_numpy(~counted(ids.numpy(), skip_positions, left_out))] = 0
        parts.append((at, log_likelihood_change(subject.model, subject.hook_name, ids, steering).cpu()))
    at, change = (torch.cat(column) for column in zip(*parts, strict=True))
    of_label = torch.from_numpy(inside[chosen][:, 1:])
    scored = torch.from_numpy(counted(tokens[chosen][:, 1:], 0, left_out))  # the tokens that are predicted
    if skip_positions:
        scored[:, :skip_positions] = False  # predicted from a position that is left alone
    fired = at[:, :-1] > 0

    def mean(mask: Tensor) -> tuple[float, int]:
        return (float(change[mask & scored].mean()) if (mask & scored).any() else 0.0), int((mask & scored).sum())

    (label, n_label), (other, n_other), (active, n_active) = mean(of_label), mean(~of_label), mean(fired)
    effect = Effect(
        label=label, other=other, active=active, tokens_label=n_label, tokens_other=n_other, tokens_active=n_active
    )
    return effect, _passage(subject.model, tokens[chosen], at, change)


def _passage(model: LanguageModel, tokens: np.ndarray, at: Tensor, change: Tensor, length: int = 90) -> dict[str, Any]:
    """The stretch of a context where the ablation changes most: pieces of text with activation and change."""
    total = change.clamp_max(0).unfold(1, min(length, change.shape[1]), 1).sum(-1)
    row, start = divmod(int(total.argmin()), total.shape[1])
    ids = tokens[row, start : start + length + 1].tolist()
    fired = at[row, start : start + len(ids)].tolist()
    moved = [0.0, *change[row, start : start + len(ids) - 1].tolist()]
    pieces, i = [], 0
    for piece in show(model, ids, fired, 0):
        n = len(piece.tokens)
        pieces.append({"text": piece.text, "value": piece.value, "change": sum(moved[i : i + n])})
        i += n
    return {"pieces": pieces, "right_to_left": is_right_to_left("".join(p["text"] for p in pieces))}
