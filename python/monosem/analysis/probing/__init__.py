"""k-sparse probing: how well a few features of a dictionary, chosen by their means, tell labelled texts apart."""

from monosem.analysis.probing.measure import probe
from monosem.analysis.probing.page import section
from monosem.analysis.probing.pooled import POOLS, Pooled, pool
from monosem.analysis.probing.result import Probe, ProbingResult, Task

__all__ = ["POOLS", "Pooled", "Probe", "ProbingResult", "Task", "pool", "probe", "section"]
