"""The interpreter that asks a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from monosem.analysis.evidence.explain.cases import Case
from monosem.analysis.evidence.explain.chat import PROBE, Chat, Request
from monosem.analysis.evidence.explain.completion import Answer
from monosem.analysis.evidence.explain.estimate import Estimate
from monosem.analysis.evidence.explain.interpreter import Question
from monosem.analysis.evidence.explain.prompts import FULL, Read, Style
from monosem.analysis.evidence.explain.scoring import detection_set, fuzzing_set

_TYPICAL = "x" * 180  # an explanation of the allowed length: what the estimate puts in place of one not made yet
_Make = Callable[[Question, bool], Request]


class ModelInterpreter:
    """Explains and predicts by asking a chat model.

    Where the endpoint gives log-probabilities, a simulated level is the expected one (Bills et al., 2023), and a
    choice is the probability of a yes against a no; elsewhere both are as the model wrote them. ``answers`` has which.

    Args:
        chat: the endpoint.
        style: :data:`~monosem.analysis.evidence.explain.prompts.FULL`, or for small models
            :data:`~monosem.analysis.evidence.explain.brief.BRIEF`.
        logprobs: whether to ask for log-probabilities; default: ask the endpoint once whether it gives them.
    """

    def __init__(self, chat: Chat, style: Style = FULL, *, logprobs: bool | None = None) -> None:
        self.chat, self.style = chat, style
        self.name = chat.model
        self._wanted, self._offered = logprobs, False if logprobs is False else None
        self.answers: dict[str, Any] = {
            "asked": style.name,
            "logprobs": False,
            "why": "log-probabilities were not asked for",
        }

    def explain(self, cases: Sequence[Case]) -> list[str | None]:
        if self._wanted:
            self._logprobs()  # an endpoint without them is reported before it is asked for anything
        requests = [self.style.explain(c) for c in cases]
        return self.chat.ask(requests, lambda _, answer: self.style.read_explanation(answer), what="explanation")

    def simulate(self, questions: Sequence[Question]) -> list[list[list[float]] | None]:
        asked = [_by_token(q) for q in questions] if self.style.by_token else questions
        answers = self._ask(asked, "simulation", self.style.simulate, self.style.read_simulation)
        return [_by_snippet(a, q) for a, q in zip(answers, questions, strict=True)] if self.style.by_token else answers

    def detect(self, questions: Sequence[Question]) -> list[list[float] | None]:
        return self._ask(questions, "detection", self.style.detect, self._choice)

    def fuzz(self, questions: Sequence[Question]) -> list[list[float] | None]:
        return self._ask(questions, "fuzzing", self.style.fuzz, self._choice)

    def plausible(self, questions: Sequence[Question]) -> list[list[float] | None]:
        return self._ask(questions, "logits", self.style.plausible, self._choice)

    def _choice(self, answer: Answer, question: Question) -> Read:
        return self.style.read_choice(answer, question, self._logprobs())

    def _logprobs(self) -> bool:
        """Whether to ask for log-probabilities; the endpoint is asked once.

        Raises:
            ValueError: they are wanted, and the endpoint does not give them.
        """
        if self._offered is None:
            self._offered, why = self.chat.offers_logprobs()
            self.answers |= {"logprobs": self._offered, "why": why}
            if self._wanted and not self._offered:
                raise ValueError(f"logprobs: wanted, but {why}. Leave them to the endpoint (--logprobs auto)")
        return self._offered

    def _ask(
        self, questions: Sequence[Question], task: str, make: _Make, read: Callable[[Answer, Question], Read]
    ) -> list[list[Any] | None]:
        """Ask in parts of ``style.per_request``, and in halves of a part that the context of the model has no room for.

        The result of a question is None if one of its parts got no usable answer.
        """
        logprobs = self._logprobs()
        todo = [
            (n, *part) for n, q in enumerate(questions) for part in _parts(0, q.size, self.style.per_request or q.size)
        ]
        got: list[dict[int, Read | None]] = [{} for _ in questions]
        halved = 0
        while todo:
            parts = [questions[n].part(a, b) for n, a, b in todo]
            divisible = [b - a > 1 for _, a, b in todo]
            answers = self.chat.ask(
                [make(p, logprobs) for p in parts],
                lambda i, answer, parts=parts: read(answer, parts[i]),
                what=task,
                too_long=lambda i, divisible=divisible: _HALVE if divisible[i] else None,
            )
            again = []
            for (n, a, b), answer in zip(todo, answers, strict=True):
                if answer is _HALVE:
                    again += [(n, *half) for half in _parts(a, b, (b - a + 1) // 2)]
                    halved += 1
                else:
                    got[n][a] = answer
            todo = again
        reads = [[r for _, r in sorted(of.items())] for of in got]
        given, written = (sum(getattr(r, name) for of in reads for r in of if r) for name in ("given", "written"))
        self.answers[task] = {"logprobs": given, "written": written} | ({"halved": halved} if halved else {})
        return [None if None in of else [v for r in of if r for v in r.values] for of in reads]

    def estimate(self, cases: Sequence[Case], seed: int = 0) -> Estimate:
        """What :func:`~monosem.analysis.evidence.explain.scoring.judge` will ask, before anything is asked.

        Where an explanation is on disk, the requests that follow from it are known and looked up too; where it is
        not, one of typical length stands for it. Repeated requests come on top. As long as nobody knows whether the
        endpoint gives log-probabilities, they are taken to be given.
        """
        total = self._one(PROBE) if self._offered is None else Estimate(0, 0, 0, 0)
        known = self._offered if self._offered is not None else self.chat.known_logprobs()
        logprobs = known is not False
        for case in cases:
            first = self.style.explain(case)
            total = total + self._one(first)
            explanation = self.chat.recall(first, self.style.read_explanation) or _TYPICAL
            whole = Question(explanation, tuple(s.tokens for s in case.test))
            asked = [(self.style.simulate, _by_token(whole) if self.style.by_token else whole)]
            for make, chosen in (
                (self.style.detect, detection_set(case)),
                (self.style.fuzz, fuzzing_set(case, np.random.default_rng([seed, case.feature, 2]))),
            ):
                snippets, marked = tuple(s.tokens for s, *_ in chosen), tuple(m for _, m, _ in chosen)
                asked.append((make, Question(explanation, snippets, marked)))
            asked.append((self.style.plausible, Question(explanation, tuple((t,) for t in case.task))))
            for make, question in asked:
                for a, b in _parts(0, question.size, self.style.per_request or question.size):
                    total = total + self._one(make(question.part(a, b), logprobs))
        return total

    def _one(self, request: Request) -> Estimate:
        if self.chat.cached(request):
            return Estimate(0, 1, 0, 0)
        return Estimate(1, 0, request.tokens, request.max_tokens)


_HALVE = Read([])  # stands for the answer to a request that is to be divided


def _by_token(question: Question) -> Question:
    """The text up to each token of each snippet."""
    return Question(question.explanation, tuple(s[: i + 1] for s in question.snippets for i in range(len(s))))


def _by_snippet(levels: list[float] | None, question: Question) -> list[list[float]] | None:
    if levels is None:
        return None
    flat = iter(levels)
    return [[next(flat) for _ in s] for s in question.snippets]


def _parts(start: int, end: int, size: int) -> list[tuple[int, int]]:
    """(first, one past the last) of parts of at most ``size``."""
    return [(a, min(end, a + size)) for a in range(start, end, max(1, size))]
