"""Kinds of text that can be told without a network, and the features that follow them (paper, "Feature Proxies")."""

from monosem.analysis.evidence.proxies.builtin import ProxySet, builtin, parse
from monosem.analysis.evidence.proxies.kinds import CharacterSet, Frequencies, Function, Pattern, Proxy, Script
from monosem.analysis.evidence.proxies.labelled import LabelMoments, label_features
from monosem.analysis.evidence.proxies.measure import ProxyResult, measure
from monosem.analysis.evidence.proxies.page import section

__all__ = [
    "CharacterSet",
    "Frequencies",
    "Function",
    "LabelMoments",
    "Pattern",
    "Proxy",
    "ProxyResult",
    "ProxySet",
    "Script",
    "builtin",
    "label_features",
    "measure",
    "parse",
    "section",
]
