"""The interpreter that asks a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from monosem.analysis.evidence.explain import prompts
from monosem.analysis.evidence.explain.cases import Case
from monosem.analysis.evidence.explain.chat import Chat, Estimate, Request
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.scoring import detection_set, fuzzing_set

_TYPICAL = "x" * 180  # an explanation of the allowed length: what the estimate puts in place of one not made yet


class ModelInterpreter:
    """Explains and predicts by asking a chat model, one request for each feature and task.

    Args:
        chat: the endpoint.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.name = chat.model

    def explain(self, cases: Sequence[Case]) -> list[str | None]:
        requests = [prompts.explain(c) for c in cases]
        return self.chat.ask(requests, lambda _, text: prompts.read_explanation(text), what="explaining")

    def simulate(self, questions: Sequence[Question]) -> list[list[list[float]] | None]:
        requests = [prompts.simulate(q) for q in questions]
        return self.chat.ask(requests, lambda i, text: prompts.read_simulation(text, questions[i]), what="simulating")

    def detect(self, questions: Sequence[Question]) -> list[list[bool] | None]:
        return self._choose(questions, prompts.detect, "detecting")

    def fuzz(self, questions: Sequence[Question]) -> list[list[bool] | None]:
        return self._choose(questions, prompts.fuzz, "fuzzing")

    def plausible(self, questions: Sequence[Question]) -> list[list[bool] | None]:
        counts = [len(q.snippets[0]) for q in questions]
        return self._choose(questions, prompts.plausible, "next tokens", counts)

    def _choose(
        self, questions: Sequence[Question], make: Callable[[Question], Request], what: str, counts: Any = None
    ) -> list[list[bool] | None]:
        counts = [len(q.snippets) for q in questions] if counts is None else counts
        return self.chat.ask(
            [make(q) for q in questions], lambda i, text: prompts.read_choice(text, counts[i]), what=what
        )

    def estimate(self, cases: Sequence[Case], seed: int = 0) -> Estimate:
        """What :func:`~monosem.analysis.evidence.explain.scoring.judge` will ask, before anything is asked.

        Where an explanation is on disk, the requests that follow from it are known and looked up too; where it is
        not, one of typical length stands for it. Repeated requests come on top.
        """
        total = Estimate(0, 0, 0, 0)
        for case in cases:
            first = prompts.explain(case)
            total = total + self._one(first)
            explanation = self.chat.recall(first, prompts.read_explanation) or _TYPICAL
            asked = [(prompts.simulate, Question(explanation, tuple(s.tokens for s in case.test)))]
            for make, chosen in (
                (prompts.detect, detection_set(case)),
                (prompts.fuzz, fuzzing_set(case, np.random.default_rng([seed, case.feature, 2]))),
            ):
                snippets, marked = tuple(s.tokens for s, *_ in chosen), tuple(m for _, m, _ in chosen)
                asked.append((make, Question(explanation, snippets, marked)))
            asked.append((prompts.plausible, Question(explanation, (case.task,))))
            for make, question in asked:
                total = total + self._one(make(question))
        return total

    def _one(self, request: Request) -> Estimate:
        if self.chat.cached(request):
            return Estimate(0, 1, 0, 0)
        return Estimate(1, 0, request.tokens, request.max_tokens)
