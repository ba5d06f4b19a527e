"""How to get each claim for a model of one's own: the command, the Python function, what is written."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

TRAIN = "monosem train --model MODEL --hook HOOK --text TEXT.jsonl --out RUN"


@dataclass(frozen=True)
class Guide:
    """For the section with this anchor.

    Attributes:
        command: with MODEL, HOOK, TEXT.jsonl and RUN, RUN_B, … in the places that differ (see ``WORDS``).
        function: its full name in Python.
        page: what the command writes into the dictionary's folder; of several, the last one's.
        more: what else can be asked, one sentence; may be empty.
    """

    command: str
    function: str
    page: str
    more: str = ""


# Capitals in commands. RUN_… are dictionaries too.
WORDS = MappingProxyType(
    {
        "MODEL": "A or B (shipped), a folder written by monosem lm train, or a name that TransformerLens knows",
        "HOOK": "the hook that is read, in TransformerLens notation: blocks.0.mlp.hook_post",
        "TEXT.jsonl": 'one {"text": …, "source": …} per line; source names its kind, a label (python, ar_books, …)',
        "RUN": f"the folder of a trained dictionary: {TRAIN}",
        "RUN_B": "one trained alike on a second model with the same tokenizer",
        "RUN_SHUFFLED": "one trained on MODEL~shuffled, the same model with the entries of each weight matrix permuted",
        "RUN_512 RUN_4096 RUN_16384": "of one model and hook with growing width: monosem train --d-sae 512, …",
    }
)
_EVIDENCE = "monosem.analysis.evidence"

GUIDES = MappingProxyType(
    {
        "loss": Guide(
            "monosem evaluate RUN --text TEXT.jsonl --report", "monosem.analysis.metrics.evaluate", "report.html",
        ),
        "proxies": Guide(
            "monosem proxies RUN --text TEXT.jsonl", f"{_EVIDENCE}.proxies.measure", "proxies.html",
            "A kind of text of your own: --proxy 'hex=[0-9a-f]{6,}', a regular expression; in Python any function.",
        ),
        "rubric": Guide(
            "monosem rate RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl", f"{_EVIDENCE}.rate.write_study",
            "rate.html", "monosem rate --score ANSWERS.json --out RUN scores the saved answers.",
        ),
        "explain": Guide(
            "monosem explain RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl", f"{_EVIDENCE}.explain.measure",
            "explain.html",
            "By a language model instead of rules: --client URL --client-model NAME (any OpenAI-compatible endpoint).",
        ),
        "explain-logits": Guide(
            "monosem explain RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl", f"{_EVIDENCE}.explain.measure",
            "explain.html",
        ),
        "neurons": Guide("monosem neurons RUN --text TEXT.jsonl", f"{_EVIDENCE}.neurons.measure", "neurons.html"),
        "steering": Guide(
            "monosem steer RUN --text TEXT.jsonl", f"{_EVIDENCE}.steer.measure",
            "steering.html", "Labels of yours: --labels SOURCE …; features of your choice: --pin 12=2x --add 7=0.5x.",
        ),
        "universality": Guide(
            "monosem compare RUN RUN_B --text TEXT.jsonl", f"{_EVIDENCE}.compare.measure", "universality.html",
        ),
        "splitting": Guide(
            "monosem split RUN_512 RUN_4096 RUN_16384 --text TEXT.jsonl", f"{_EVIDENCE}.split.measure",
            "splitting.html", "Begin from any feature of the smallest: --feature 45.",
        ),
        "widths": Guide(
            "monosem widths RUN_512 RUN_4096 RUN_16384 --text TEXT.jsonl", f"{_EVIDENCE}.widths.measure",
            "widths.html",
        ),
        "automata": Guide(
            "monosem automata RUN --text TEXT.jsonl", f"{_EVIDENCE}.automata.measure", "automata.html",
        ),
    }
)  # fmt: skip
