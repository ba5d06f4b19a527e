"""The report: one self-contained page about a trained dictionary."""

from monosem.analysis.report.content import study
from monosem.analysis.report.curves import find_curves, read_curves
from monosem.analysis.report.page import write_report

__all__ = ["find_curves", "read_curves", "study", "write_report"]
