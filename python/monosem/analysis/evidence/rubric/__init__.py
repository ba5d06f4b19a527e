"""Human analysis (*Towards Monosemanticity*, "Feature Interpretability Rubric"): a blind page, and its scores."""

from monosem.analysis.evidence.rubric.ratings import Ratings, measure
from monosem.analysis.evidence.rubric.results import section
from monosem.analysis.evidence.rubric.study import Candidate, candidates, write_study

__all__ = ["Candidate", "Ratings", "candidates", "measure", "section", "write_study"]
