"""Steering: does a feature cause the text that it stands for? Pinned sampling and ablation, label by label.

*Towards Monosemanticity*: pinned to its maximum while the model writes on from ``1,2,3,4,5,6,7,8,9,10``, the base64
feature makes base64 and the Arabic feature Arabic; ablated, it lowers the log-likelihood of just those tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from monosem.analysis.evidence.ablation import Effect, ablation
from monosem.analysis.evidence.steer_judges import Judge
from monosem.analysis.index.protocol import FeatureIndex
from monosem.analysis.inputs import Subject
from monosem.analysis.sources import all_groups, named, paper_groups, sources_read
from monosem.analysis.steering import Edit, Steering, side_by_side
from monosem.ops.precision import as_given

# The paper's prompt; and one in prose, for a model that may go on from a list of numbers with anything.
PROMPTS = ("1,2,3,4,5,6,7,8,9,10", "Once upon a time there was a")
STEERED = ("base64", "Arabic")  # the labels that the paper steers by
PAPERS = 1.0  # of the largest activation seen: the strength that the paper pins to
MULTIPLES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
JUDGED = (
    "a sample counts when at least half of its tokens score as the label's text does on its log-likelihood-ratio proxy"
)
HIT = 0.5  # a sample counts when at least this share of its tokens is judged to be of the label
_APART = 10_000  # the seeds that choose the strength, and those that are reported, have nothing in common


@dataclass(frozen=True)
class Case:
    """One label and the feature that stands for it.

    ``correlation``, ``precision``, ``recall``: of the feature with the label. ``runs``: for each strength and prompt
    how many samples were judged to be of the label (``hits``; ``control_hits`` without steering), and the samples. A
    strength is a ``multiple`` of ``maximum``: 1, as in the paper, and then, if that is another, ``multiple`` of the
    case, which had the largest mean share of the label's tokens in ``sweep`` (the last prompt, other seeds).
    ``passage``: tokens of the text with the feature's activation and the change of their log-likelihood.
    """

    label: str
    feature: int
    correlation: float
    precision: float
    recall: float
    maximum: float
    multiple: float
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
            lines.append(f"{c.label}: feature #{c.feature}, largest activation seen {c.maximum:.1f}")
            for run in c.runs:
                n = len(run["samples"])
                lines.append(
                    f"  pinned to {run['multiple']:g}x its maximum, after {run['prompt']!r}: {run['hits']} of {n} "
                    f"samples judged {c.label}; without steering {run['control_hits']} of {n}"
                )
            effect, interval = c.effect, ""
            if effect.label_interval is not None:
                interval = " ({:+.4f} to {:+.4f})".format(*effect.label_interval)
            lines.append(
                f"  ablated: {effect.label:+.4f} nats per token on {c.label}{interval}, {effect.active:+.4f} where it "
                f"fires, {effect.other:+.5f} on other text"
            )
        return "\n".join(lines)


def measure(
    subject: Subject,
    index: FeatureIndex,
    *,
    judges: Mapping[str, Judge],
    groups: Mapping[str, Sequence[int]],
    features: Mapping[str, int],
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
    """Steer by the feature of each label that ``groups``, ``judges`` and ``features`` share.

    Args:
        index: of the dictionary (``monosem.analysis.index``): maxima, correlations with the sources, the text.
        judges: {label: judge}; what text of that label looks like.
        groups: {label: sources}, numbers of the index's sources that bear the label.
        features: {label: feature} to steer by, as ``proxies.label_features`` chooses them.
        prompts: what the model writes on from; the strength beside the maximum itself is chosen on the last.
        samples: continuations of each prompt that are reported, with and without steering, seeds from ``seed`` on.
        multiples: of the maximum, tried on ``trials`` other seeds to choose the strength.
        contexts: rows with most tokens of the label, and as many of other text, on which the feature is ablated.
        judged: how the judges decide, in words.

    Raises:
        ValueError: no label has a judge and text, or no feature follows one.
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
    labels = [label for label in labels if label in features]
    if not labels:
        raise ValueError(
            f"labels: no feature follows {', '.join(groups)} on this text; name a feature by its number, or read "
            "other text"
        )
    runs = len(labels) * len(multiples) * trials + (2 * len(labels) + 1) * len(prompts) * samples
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
            feature = features[label]
            top = float(index.maximum[feature])
            at = {
                m: Steering(subject.sae, [Edit(feature, "pin", m * top)], error=error, skip_positions=skip_positions)
                for m in {*multiples, PAPERS}
            }
            sweep: dict[str, Any] = {"multiples": list(multiples), "hits": [], "shares": [], "trials": trials}
            for m in multiples:
                tried = write(label, at[m], prompts[-1], trials, seed + _APART, [[]] * trials)
                sweep["hits"].append(sum(share >= HIT for *_, share in tried) / trials)
                sweep["shares"].append(sum(share for *_, share in tried) / trials)
            multiple = _best(sweep)
            runs_of_label = []
            if multiple == PAPERS:
                bar.total -= len(prompts) * samples * length
            for pinned, prompt in itertools.product(dict.fromkeys((PAPERS, multiple)), prompts):
                judged_samples = write(label, at[pinned], prompt, samples, seed, plain.get(prompt))
                plain[prompt] = [s.unsteered for s, *_ in judged_samples]
                runs_of_label.append({"multiple": pinned} | _run(prompt, judged_samples))
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
def _top_logits(subject: Subject, index: FeatureIndex, feature: int, count: int = 8) -> tuple[tuple[str, float], ...]:
    from monosem.analysis.logits import used_vocabulary

    used = used_vocabulary(np.asarray(index.rows.tokens), subject.model.d_vocab).nonzero().flatten()
    directions = subject.model.logit_directions(subject.hook_name).float().cpu()[:, used]
    weights = subject.sae.W_dec.detach()[feature].float().cpu() @ directions
    top = (weights - weights.median()).topk(min(count, len(used)))
    return tuple((subject.model.token_str(int(used[i])), float(v)) for v, i in zip(*top, strict=True))
