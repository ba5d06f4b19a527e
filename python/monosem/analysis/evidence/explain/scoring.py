"""From an interpreter's predictions to scores: one number per task and feature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monosem.analysis.evidence.explain.cases import LEVEL, RANDOM, TOP, Case, Snippet
from monosem.analysis.evidence.explain.interpreter import Interpreter, Question
from monosem.analysis.evidence.statistics import auroc, balanced_accuracy, spearman

MARK = 0.3  # marked for fuzzing: tokens with at least this share of the snippet's largest activation
TASKS = ("simulation", "weighted", "detection", "fuzzing", "logits")
FEWEST = 5  # positives and negatives that a balanced accuracy needs


@dataclass
class Item:
    """A feature, its explanation and its scores. A score is None where the task could not be set or answered.

    ``auc``: of choices that came as probabilities, the area under the ROC curve, which needs no threshold.
    """

    case: Case
    explanation: str | None
    scores: dict[str, float | None] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # tasks to which no usable answer came
    predicted: list[list[float]] | None = None  # levels of the test snippets
    auc: dict[str, float] = field(default_factory=dict)


def judge(cases: Sequence[Case], interpreter: Interpreter, seed: int = 0) -> list[Item]:
    """Have every case explained, then predicted from the explanation, and score the predictions.

    * ``simulation``: Spearman's ρ of predicted levels and activations over the 60 × 9 tokens; a constant scores 0.
    * ``weighted``: the same with the paper's importance weights.
    * ``detection``: balanced accuracy of "is it active here", snippets with an activation against random ones without.
    * ``fuzzing``: balanced accuracy of "are the marked tokens the active ones", half of the snippets marked wrongly.
    * ``logits``: accuracy of "is it a plausible next token" on 50 tokens that it raises and 50 random ones.
    """
    items = [Item(c, e) for c, e in zip(cases, interpreter.explain(cases), strict=True)]
    for item in items:
        item.scores = dict.fromkeys(TASKS)
        if item.explanation is None:
            item.failed.append("explanation")
    explained = [i for i in items if i.explanation is not None]
    _simulate(explained, interpreter)
    _judge_snippets(explained, interpreter.detect, "detection", [detection_set(i.case) for i in explained])
    fuzzed = [fuzzing_set(i.case, np.random.default_rng([seed, i.case.feature, 2])) for i in explained]
    _judge_snippets(explained, interpreter.fuzz, "fuzzing", fuzzed)
    _logits(explained, interpreter)
    return items


def _simulate(items: Sequence[Item], interpreter: Interpreter) -> None:
    asked = [Question(str(i.explanation), tuple(s.tokens for s in i.case.test)) for i in items]
    for item, answer in zip(items, interpreter.simulate(asked), strict=True):
        if answer is None:
            item.failed.append("simulation")
            continue
        item.predicted = answer
        predicted = np.concatenate([np.asarray(a, dtype=np.float64) for a in answer])
        true = np.concatenate([s.values for s in item.case.test])
        weights = np.concatenate([[s.weight] * len(s.values) for s in item.case.test])
        item.scores["simulation"] = spearman(predicted, true)
        item.scores["weighted"] = spearman(predicted, true, weights)


Marked = tuple[Snippet, tuple[int, ...], bool]  # a snippet, its marked tokens, the right answer


def detection_set(case: Case) -> list[Marked]:
    """The active snippets of the test, and as many random ones in which the feature is silent."""
    active = [s for s in case.test if s.group in (TOP, LEVEL) and s.active]
    silent = [s for s in (*case.test, *case.spare) if s.group == RANDOM and not s.active][: len(active)]
    both = [(s, (), True) for s in active] + [(s, (), False) for s in silent]
    order = np.random.default_rng([case.feature, 3]).permutation(len(both))
    return [both[i] for i in order]


def fuzzing_set(case: Case, random: np.random.Generator) -> list[Marked]:
    """The active snippets of the test; in every second one the marks stand on silent tokens instead."""
    out: list[Marked] = []
    wrong = bool(random.integers(2))
    for s in (s for s in case.test if s.group in (TOP, LEVEL) and s.active):
        values = np.asarray(s.values)
        right = np.flatnonzero(values >= MARK * values.max())
        silent = np.flatnonzero(values == 0)
        if wrong and len(silent) >= len(right):
            out.append((s, tuple(sorted(map(int, random.permutation(silent)[: len(right)]))), False))
        elif not wrong:
            out.append((s, tuple(map(int, right)), True))
        else:
            continue  # active on almost every token: no wrong marks can be set
        wrong = not wrong
    return out


def _judge_snippets(items: Sequence[Item], ask: Any, task: str, sets: Sequence[list[Marked]]) -> None:
    able = [
        (item, asked)
        for item, asked in zip(items, sets, strict=True)
        if min(sum(right for *_, right in asked), sum(not right for *_, right in asked)) >= FEWEST
    ]
    questions = [
        Question(str(item.explanation), tuple(s.tokens for s, _, _ in asked), tuple(m for _, m, _ in asked))
        for item, asked in able
    ]
    for (item, asked), answer in zip(able, ask(questions), strict=True):
        if answer is None:
            item.failed.append(task)
        else:
            true = [right for *_, right in asked]
            item.scores[task] = balanced_accuracy(_chosen(item, task, answer, true), true)


def _logits(items: Sequence[Item], interpreter: Interpreter) -> None:
    able = [i for i in items if i.case.task]
    questions = [Question(str(i.explanation), tuple((t,) for t in i.case.task)) for i in able]
    for item, answer in zip(able, interpreter.plausible(questions), strict=True):
        if answer is None:
            item.failed.append("logits")
        else:
            true = list(item.case.plausible)
            item.scores["logits"] = float(np.mean(_chosen(item, "logits", answer, true) == np.asarray(true)))


def _chosen(item: Item, task: str, answer: Sequence[float], true: Sequence[bool]) -> np.ndarray:
    """What was chosen, by a half; and of probabilities the area under the curve besides."""
    if any(p not in (0, 1) for p in answer) and (area := auroc(answer, true)) is not None:
        item.auc[task] = area
    return np.asarray(answer) > 0.5
