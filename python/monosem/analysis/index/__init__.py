"""A feature index: one pass over text, and then every feature can be asked what it does."""

from monosem.analysis.index.build import build_index, check_subject, open_index
from monosem.analysis.index.example import ActivationHistogram, Example, Partner, TokenCount
from monosem.analysis.index.index import Index
from monosem.analysis.index.settings import INTERVALS, IndexSettings

__all__ = [
    "INTERVALS",
    "ActivationHistogram",
    "Example",
    "Index",
    "IndexSettings",
    "Partner",
    "TokenCount",
    "build_index",
    "check_subject",
    "open_index",
]
