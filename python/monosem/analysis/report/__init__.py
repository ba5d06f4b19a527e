"""The report: one self-contained page about a trained dictionary."""

from monosem.analysis.report.page import write_report

__all__ = ["write_report"]
