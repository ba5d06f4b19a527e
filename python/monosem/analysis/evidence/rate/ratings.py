"""From filled-in pages to medians: who rated what, item by item, once the key says which is which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monosem.analysis.evidence.rate.steps import BY_NAME, STEPS, total
from monosem.analysis.evidence.rate.study import FORMAT, INTERVALS
from monosem.analysis.evidence.statistics import median_interval, spearman
from monosem.data import sealed

ABOVE = 8  # points above which the paper's annotator felt a feature to be "quite interpretable"
KINDS = ("features", "neurons", "shuffled")


@dataclass(frozen=True)
class Rated:
    """One item with all its ratings. ``points`` is their mean; so are ``steps``; ``fits`` the share of intervals."""

    number: int
    kind: str
    feature: int
    points: float
    steps: dict[str, float | None]
    fits: float | None
    hypotheses: tuple[str, ...]


@dataclass(frozen=True)
class Ratings:
    """Every rated item, and what was left open."""

    items: tuple[Rated, ...]
    annotators: tuple[str, ...]
    open: int  # items of the study that nobody finished
    agreement: float | None  # mean Spearman ρ of the points of each two annotators
    sources: tuple[str, ...] | None = None  # of the text, where the key says

    @property
    def kinds(self) -> list[str]:
        present = {i.kind for i in self.items}
        return [k for k in KINDS if k in present] + sorted(present.difference(KINDS))

    def summary(self, kind: str) -> dict[str, Any]:
        items = [i for i in self.items if i.kind == kind]

        def middle(values: list[float | None]) -> dict[str, float] | None:
            interval = median_interval([v for v in values if v is not None])
            return interval and interval.to_dict()

        return {
            "n": len(items),
            "points": middle([i.points for i in items]),
            "steps": {s.name: middle([i.steps[s.name] for i in items]) for s in STEPS},
            "fits": middle([i.fits for i in items]),
            "above_8": float(np.mean([i.points > ABOVE for i in items])),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "annotators": list(self.annotators),
            "open": self.open,
            "agreement": self.agreement,
            **({} if self.sources is None else {"sources": list(self.sources)}),
            "kinds": {k: self.summary(k) for k in self.kinds},
            "items": [
                {
                    "number": i.number,
                    "kind": i.kind,
                    "feature": i.feature,
                    "points": i.points,
                    "steps": i.steps,
                    "fits": i.fits,
                    "hypotheses": list(i.hypotheses),
                }
                for i in self.items
            ],
        }

    def table(self) -> str:
        """Medians by kind, for the terminal."""
        heads = ["", "n", "points of 14", "> 8", *(s.name for s in STEPS)]
        rows = [heads]
        for kind in self.kinds:
            s = self.summary(kind)
            p = s["points"]
            steps = [f"{m['median']:g}" if (m := s["steps"][step.name]) else "n/a" for step in STEPS]
            rows.append(
                [kind, str(s["n"]), f"{p['median']:g} [{p['low']:g}, {p['high']:g}]", f"{s['above_8']:.0%}", *steps]
            )
        widths = [max(len(r[i]) for r in rows) for i in range(len(heads))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        notes = [f"rated by {', '.join(self.annotators)}: {len(self.items)}; medians [bootstrap 95 %]"]
        if self.open:
            notes.append(f"not rated yet and left out: {self.open}")
        if self.agreement is not None:
            notes.append(f"agreement of annotators: Spearman ρ {self.agreement:.2f}")
        return "\n".join([*lines, *notes])


def measure(answers: Sequence[dict[str, Any]], key: dict[str, Any]) -> Ratings:
    """Points of every item that somebody finished.

    Args:
        answers: what the page saved, one for each annotator.
        key: what was written beside the page.

    Raises:
        ValueError: answers to another study, a step out of its range, or nothing rated at all.
    """
    if not answers:
        raise ValueError("answers: got none; wanted at least one file saved by the page")
    by_annotator: list[dict[int, dict[str, Any]]] = []
    names = []
    for n, one in enumerate(answers, 1):
        names.append(str(one.get("annotator") or f"annotator {n}"))
        by_annotator.append(_checked(one, key, names[-1]))
    items = []
    for number, what in sorted((int(n), w) for n, w in key["items"].items()):
        mine = [a[number] for a in by_annotator if number in a]
        if mine:
            items.append(_rated(number, what, mine))
    if not items:
        raise ValueError("answers: no item is finished; rate at least one (all steps) and save again")
    return Ratings(
        items=tuple(items),
        annotators=tuple(names),
        open=len(key["items"]) - len(items),
        agreement=_agreement(by_annotator),
        sources=_sources(key),
    )


def _sources(key: dict[str, Any]) -> tuple[str, ...] | None:
    held = key.get("sources")
    return tuple(map(str, held)) if isinstance(held, list) else None


def _checked(one: dict[str, Any], key: dict[str, Any], name: str) -> dict[int, dict[str, Any]]:
    """The finished items of one annotator."""
    if one.get("format") != FORMAT or one.get("study") != key.get("study"):
        raise ValueError(
            f"answers: those of {name} belong to study {one.get('study')!r} (format {one.get('format')!r}), the key to "
            f"{key.get('study')!r} (format {key.get('format')!r}); wanted the key that was written beside their page"
        )
    out = {}
    for number, answer in one.get("answers", {}).items():
        if number not in key["items"] or not isinstance(answer, dict):
            raise ValueError(f"answers: {name} rated item {number!r}, which this study does not have")
        for step in STEPS:
            value = answer.get(step.name)
            if value is not None and not (type(value) is int and 0 <= value <= step.max_points):
                raise ValueError(
                    f"answers: item {number} of {name} has {step.name}={value!r}; wanted an integer from 0 to "
                    f"{step.max_points}"
                )
        if total(answer) is not None:
            out[int(number)] = answer
    return out


def _rated(number: int, what: dict[str, Any], answers: list[dict[str, Any]]) -> Rated:
    steps: dict[str, float | None] = {}
    for step in STEPS:
        perfect = [a["logits"] == BY_NAME["logits"].max_points for a in answers]
        kept = [a[step.name] for a, p in zip(answers, perfect, strict=True) if step.name != "separation" or not p]
        steps[step.name] = float(np.mean(kept)) if kept else None
    marked = [f for a in answers if (f := _fits(a)) is not None]
    return Rated(
        number=number,
        kind=what["kind"],
        feature=int(what["feature"]),
        points=float(np.mean(_points(answers))),
        steps=steps,
        fits=float(np.mean(marked)) if marked else None,
        hypotheses=tuple(str(a["hypothesis"]) for a in answers if a.get("hypothesis")),
    )


def _points(answers: Sequence[dict[str, Any]]) -> list[int]:
    """Points of answers whose steps are all done."""
    return [points for answer in answers if (points := total(answer)) is not None]


def _fits(answer: dict[str, Any]) -> float | None:
    """Share of the marked intervals that fit the hypothesis; None where none was marked."""
    marks = [bool(v) for n, v in (answer.get("fits") or {}).items() if v is not None and 0 < int(n) <= INTERVALS]
    return float(np.mean(marks)) if marks else None


def _agreement(by_annotator: list[dict[int, dict[str, Any]]]) -> float | None:
    correlations = []
    for i, a in enumerate(by_annotator):
        for b in by_annotator[i + 1 :]:
            both = sorted(a.keys() & b.keys())
            if len(both) >= 3:
                correlations.append(spearman(_points([a[n] for n in both]), _points([b[n] for n in both])))
    return float(np.mean(correlations)) if correlations else None


def measure_files(answers: Sequence[str | Path], key: str | Path) -> Ratings:
    """``measure`` of saved files.

    Raises:
        FileNotFoundError, ValueError: a file is missing, altered, or none of `monosem rate`; names it.
    """
    read = [sealed.read_json(path, "score", "what the page of `monosem rate` saves") for path in answers]
    known, _ = sealed.read(Path(key), "key", "what `monosem rate` writes")
    try:
        return measure(read, known)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        names = ", ".join(repr(str(path)) for path in answers)
        said = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"score: {names}, with the key {str(key)!r}: {said}") from None
