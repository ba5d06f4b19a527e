"""Features that raise the tokens which fire the next feature (paper, "Finite State Automata")."""

from monosem.analysis.evidence.automata.measure import AutomataResult, measure
from monosem.analysis.evidence.automata.page import section

__all__ = ["AutomataResult", "measure", "section"]
