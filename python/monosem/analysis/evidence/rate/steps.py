"""The rubric: six steps, at most 14 points (paper, appendix "Feature Interpretability Rubric"), in our own words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A question with one answer of 0 … ``max_points``; ``words`` says what each answer means."""

    name: str
    question: str
    help: str
    words: tuple[str, ...]

    @property
    def max_points(self) -> int:
        return len(self.words) - 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


STEPS = (
    Step(
        "confidence",
        "How sure are you of this hypothesis?",
        "Of the hypothesis that you wrote down, not of the feature being good.",
        ("no hypothesis", "a guess", "fairly sure", "certain"),
    ),
    Step(
        "high",
        "Do the strong examples agree with it?",
        "Judge the upper intervals: does the outlined token, with what stands before it, fit the hypothesis?",
        ("none", "few", "some", "most", "nearly all", "every one"),
    ),
    Step(
        "logits",
        "Do the positive logits agree with it?",
        "Would these tokens plausibly follow where the hypothesis holds?",
        ("none", "some", "most", "all"),
    ),
    Step(
        "separation",
        "Are those that agree larger than the others?",
        "Whether the bars of the tokens that agree stand clearly above those that do not. Not asked where all agree.",
        ("no", "yes"),
    ),
    Step(
        "specificity",
        "How specific is the hypothesis?",
        "0 would fit almost any text; 3 names something that most text does not have.",
        ("anything", "broad", "a kind of text", "narrow"),
    ),
)
BY_NAME = {s.name: s for s in STEPS}
MOST_POINTS = 14


def total(answer: dict[str, Any]) -> int | None:
    """Points of one item, 0 … 14; None while a step is open. ``separation`` counts only where ``logits`` is not full.

    The most is 14 either way: 3 + 5 + 3 + 3, or 3 + 5 + 2 + 1 + 3.
    """
    perfect = answer.get("logits") == BY_NAME["logits"].max_points
    points = [answer.get(s.name) for s in STEPS if not (s.name == "separation" and perfect)]
    given = [p for p in points if p is not None]
    return sum(given) if len(given) == len(points) else None
