"""Features, neurons and the control, explained and scored: the figures of claims 3 and 4 of the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monosem.analysis.evidence.explain.cases import RANDOM, Case, Snippet
from monosem.analysis.evidence.explain.interpreter import Interpreter
from monosem.analysis.evidence.explain.scoring import TASKS, Item, judge
from monosem.analysis.evidence.statistics import median_interval

SHOWN = 6  # test snippets of each feature that the page shows


@dataclass(frozen=True)
class Explanations:
    """Every explained feature with its scores, and who explained.

    Attributes:
        interpreter: ``"local"`` or the name of the model that was asked.
        items: one for each feature, of all kinds.
        answers: how the answers of a model were read: {"asked", "logprobs", "why", task: {"logprobs", "written"}}.
        subjects: {kind: {"model", "hook_name", "d_sae", "kind", "tokens", "sources"}}, what each kind was taken from.
    """

    interpreter: str
    items: tuple[Item, ...]
    subjects: dict[str, dict[str, Any]]
    seed: int = 0
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def kinds(self) -> list[str]:
        return list(dict.fromkeys(i.case.kind for i in self.items))

    def summary(self, kind: str) -> dict[str, Any]:
        """Medians with their bootstrap intervals, and what the paper says about the examples themselves."""
        items = [i for i in self.items if i.case.kind == kind]
        scores: dict[str, Any] = {}
        for task in TASKS:
            median = median_interval([s for i in items if (s := i.scores[task]) is not None], self.seed)
            scores[task] = median and median.to_dict() | {"mean": _mean(i.scores[task] for i in items)}
        areas = {t: median_interval([i.auc[t] for i in items if t in i.auc], self.seed) for t in TASKS}
        zeros = [share for i in items if (share := _zero_share(i.case)) is not None]
        return {
            "n": len(items),
            "scores": scores,
            **({"auc": {t: a.to_dict() for t, a in areas.items() if a}} if any(areas.values()) else {}),
            "failed": {t: sum(t in i.failed for i in items) for t in ("explanation", *TASKS)},
            "zero_share_mean": _mean(zeros),
            "zero_share_median": float(np.median(zeros)) if zeros else None,
            "single_token_share": _mean(float(i.case.single_token) for i in items),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "interpreter": self.interpreter,
            **({"answers": self.answers} if self.answers else {}),
            "seed": self.seed,
            "subjects": self.subjects,
            **self._sources(),
            "kinds": {kind: self.summary(kind) for kind in self.kinds},
            "items": [_item(i) for i in self.items],
        }

    def _sources(self) -> dict[str, list[str]]:
        """``sources``: of the text of all kinds; nothing where the subjects do not say."""
        known = [s["sources"] for s in self.subjects.values() if "sources" in s]
        return {"sources": list(dict.fromkeys(name for names in known for name in names))} if known else {}

    def table(self) -> str:
        """Medians by kind, for the terminal."""
        heads = ["", "n", "simulation ρ", "weighted ρ", "detection", "fuzzing", "logit task"]
        lines = [heads]
        for kind in self.kinds:
            s = self.summary(kind)
            cells = [_cell(s["scores"][task]) for task in TASKS]
            lines.append([kind, str(s["n"]), *cells])
            if "auc" in s:
                lines.append(["  AUC", "", *(_cell(s["auc"][task]) if task in s["auc"] else "" for task in TASKS)])
        widths = [max(len(row[i]) for row in lines) for i in range(len(heads))]
        text = "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in lines)
        how = f"; {said}" if (said := how_read(self.answers)) else ""
        return f"explained by {self.interpreter}{how}; medians [bootstrap 95 %]\n{text}"


def measure(
    cases: Sequence[Case],
    interpreter: Interpreter,
    *,
    subjects: dict[str, dict[str, Any]] | None = None,
    seed: int = 0,
) -> Explanations:
    """Explain and score features of one or several kinds.

    *Towards Monosemanticity*, "Automated Interpretability": explanations from 49 examples, Spearman's ρ of simulated
    and true activations on 60 × 9 other tokens, the same weighted by importance, and the 100-token task of the logit
    weights; detection and fuzzing besides, which ask less of the interpreter.

    Args:
        cases: from :func:`monosem.analysis.evidence.explain.cases.gather`, of any kinds.
        interpreter: :class:`LocalInterpreter` or :class:`ModelInterpreter`.
        subjects: what each kind was taken from, for the record.
        seed: of the fuzzing marks and the bootstrap.

    Raises:
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("cases: got none; wanted at least one feature (is every feature too rare in this text?)")
    items = tuple(judge(cases, interpreter, seed))
    return Explanations(interpreter.name, items, subjects or {}, seed, dict(interpreter.answers))


def how_read(answers: dict[str, Any]) -> str:
    """One phrase on how a model's answers were read; nothing of an interpreter that is no model."""
    if not answers:
        return ""
    if not answers["logprobs"]:
        return f"answers read as written, because {answers['why']}"
    read = [a for a in answers.values() if isinstance(a, dict)]
    given, written = (sum(a[name] for a in read) for name in ("logprobs", "written"))
    return f"{given:,} of {given + written:,} numbers read from log-probabilities"


def _mean(values: Iterable[float | None]) -> float | None:
    kept = [v for v in values if v is not None]
    return float(np.mean(kept)) if kept else None


def _zero_share(case: Case) -> float | None:
    """Share of the tokens of random snippets on which the feature is silent; None where the text had none to spare."""
    drawn = [s.values for s in (*case.explain, *case.test, *case.spare) if s.group == RANDOM]
    if not drawn:
        return None
    values = np.concatenate(drawn)
    return float((values == 0).mean())


def _cell(score: dict[str, float] | None) -> str:
    return f"{score['median']:.2f} [{score['low']:.2f}, {score['high']:.2f}]" if score else "n/a"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _item(item: Item) -> dict[str, Any]:
    case = item.case
    tested = list(range(len(case.test)))
    # The page shows the strongest, and of the others those where prediction and truth differ most.
    shown = sorted(tested, key=lambda i: -max(case.test[i].values))[: SHOWN // 2]
    if item.predicted is not None:
        gap = [
            max(abs(p - case.level(v)) for p, v in zip(item.predicted[i], case.test[i].values, strict=True))
            for i in tested
        ]
        shown += sorted((i for i in tested if i not in shown), key=lambda i: -gap[i])[: SHOWN - len(shown)]
    return {
        "kind": case.kind,
        "feature": case.feature,
        "density": _short(case.density),
        "explanation": item.explanation,
        "scores": {t: None if s is None else _short(s) for t, s in item.scores.items()},
        **({"auc": {t: _short(a) for t, a in item.auc.items()}} if item.auc else {}),
        "failed": item.failed,
        "single_token": case.single_token,
        "positive": list(case.positive),
        "examples": [_example(case, case.test[i], item.predicted[i] if item.predicted else None) for i in shown],
    }


def _example(case: Case, snippet: Snippet, predicted: Sequence[float] | None) -> dict[str, Any]:
    """Pieces of a snippet, each with its true and its predicted level (of several tokens the largest)."""
    pieces, at = [], 0
    for piece in snippet.window.pieces:
        own = slice(at, at + len(piece.tokens))
        guess = None if predicted is None else _short(max(predicted[own]))
        pieces.append([piece.text, case.level(max(snippet.values[own])), guess])
        at = own.stop
    return {"pieces": pieces, "rtl": snippet.window.right_to_left, "group": snippet.group}
