"""Automated interpretability (*Towards Monosemanticity*, appendix): explain a feature from examples, then predict."""

from monosem.analysis.evidence.explain.cases import Case, choose_features, gather
from monosem.analysis.evidence.explain.interpreter import Interpreter, LocalInterpreter, Question
from monosem.analysis.evidence.explain.measure import Explanations, measure
from monosem.analysis.evidence.explain.page import logit_section, section

__all__ = [
    "Case",
    "Explanations",
    "Interpreter",
    "LocalInterpreter",
    "Question",
    "choose_features",
    "gather",
    "logit_section",
    "measure",
    "section",
]
