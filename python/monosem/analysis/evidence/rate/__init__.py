"""Human analysis (*Towards Monosemanticity*, "Feature Interpretability Rubric"): a blind page, and its scores."""

from monosem.analysis.evidence.rate.ratings import Ratings, measure
from monosem.analysis.evidence.rate.results import section
from monosem.analysis.evidence.rate.study import Candidate, candidates, write_study

__all__ = ["Candidate", "Ratings", "candidates", "measure", "section", "write_study"]
