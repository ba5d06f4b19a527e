"""Who explains a feature and who predicts from the explanation: the interface, and the one that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

from monosem.analysis.evidence.explain.cases import RANDOM, Case
from monosem.analysis.evidence.explain.rules import Rules, learn, learn_next


@dataclass(frozen=True)
class Question:
    """An explanation and what is to be predicted from it alone.

    ``snippets``: tokens of each snippet; for the logit task each is one candidate next token. ``marked``: for fuzzing,
    which tokens of each are marked.
    """

    explanation: str
    snippets: tuple[tuple[str, ...], ...]
    marked: tuple[tuple[int, ...], ...] = ()

    @property
    def size(self) -> int:
        return len(self.snippets)

    def part(self, start: int, end: int) -> Question:
        """The same about some of the snippets."""
        return Question(self.explanation, self.snippets[start:end], self.marked[start:end])


class Interpreter(Protocol):
    """Each method answers a list, in order; None stands for a question to which no usable answer came.

    A choice is a number from 0 to 1, above a half for yes: a probability where the interpreter has one, else 0 or 1.
    ``answers`` says how the answers were read: {} where there is but one way.
    """

    name: str
    answers: dict[str, Any]

    def explain(self, cases: Sequence[Case]) -> list[str | None]:
        """A description of each feature, from its examples and its extreme logit weights."""
        ...

    def simulate(self, questions: Sequence[Question]) -> list[list[list[float]] | None]:
        """A level, 0 to 9, for every token of every snippet."""
        ...

    def detect(self, questions: Sequence[Question]) -> list[list[float] | None]:
        """For every snippet whether the feature is active in it."""
        ...

    def fuzz(self, questions: Sequence[Question]) -> list[list[float] | None]:
        """For every snippet whether its marked tokens are those on which the feature is active."""
        ...

    def plausible(self, questions: Sequence[Question]) -> list[list[float] | None]:
        """For every candidate whether the feature makes it likelier as the next token."""
        ...


class LocalInterpreter:
    """Explanations as token sets and patterns; no language model, no network, the same answer every time.

    It sees what a language model would be shown: the 49 snippets with their levels and the 20 extreme tokens. It is a
    floor for what a reader of the same examples can do, and it lets the whole pipeline run offline.
    """

    name = "local"

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}

    def explain(self, cases: Sequence[Case]) -> list[str | None]:
        return [str(self._rules(case)) for case in cases]

    def simulate(self, questions: Sequence[Question]) -> list[list[list[float]] | None]:
        return [[rules.levels(s) for s in q.snippets] for q, rules in _read(questions)]

    def detect(self, questions: Sequence[Question]) -> list[list[float] | None]:
        return [[float(max(rules.levels(s)) >= _on(rules)) for s in q.snippets] for q, rules in _read(questions)]

    def fuzz(self, questions: Sequence[Question]) -> list[list[float] | None]:
        out: list[list[float] | None] = []
        for q, rules in _read(questions):
            of_each = [rules.levels(s) for s in q.snippets]
            out.append(
                [
                    float(sum(levels[i] for i in marked) >= _on(rules) * len(marked))
                    for levels, marked in zip(of_each, q.marked, strict=True)
                ]
            )
        return out

    def plausible(self, questions: Sequence[Question]) -> list[list[float] | None]:
        return [[float(rules.odds(t) > 0) for (t,) in q.snippets] for q, rules in _read(questions)]

    def _rules(self, case: Case) -> Rules:
        levels = [[case.level(v) for v in s.values] for s in case.explain]
        rules, otherwise = learn([s.tokens for s in case.explain], levels)
        background = [*case.negative, *chain.from_iterable(s.tokens for s in case.explain if s.group == RANDOM)]
        return Rules(rules, otherwise, learn_next(case.positive, background))


def _read(questions: Sequence[Question]) -> list[tuple[Question, Rules]]:
    return [(q, Rules.parse(q.explanation)) for q in questions]


def _on(rules: Rules) -> float:
    """The level from which a token counts as active: clearly above what is said of tokens that no rule names."""
    return rules.otherwise + 0.5
