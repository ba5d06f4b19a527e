"""How to get each claim for a model of one's own: the command, the Python function, the page that is written."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

TRAIN = "monosem train --model MODEL --hook HOOK --text TEXT.jsonl --out RUN"


@dataclass(frozen=True)
class Recipe:
    """For the section with this anchor.

    Attributes:
        command: with MODEL, HOOK, TEXT.jsonl and RUN, RUN_B, … in the places that differ (see ``WORDS``).
        function: its full name in Python.
        page: the page that the command writes into the folder of the dictionary; of several, the last.
        more: one sentence on further options; may be empty.
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

RECIPES = MappingProxyType(
    {
        "loss": Recipe(
            command="monosem evaluate RUN --text TEXT.jsonl --report",
            function="monosem.analysis.metrics.evaluate",
            page="report.html",
        ),
        "proxies": Recipe(
            command="monosem proxies RUN --text TEXT.jsonl",
            function=f"{_EVIDENCE}.proxies.measure",
            page="proxies.html",
            more="A kind of text of your own: --proxy 'hex=[0-9a-f]{6,}', a regular expression; in Python any "
            "function.",
        ),
        "rubric": Recipe(
            command="monosem rate RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl",
            function=f"{_EVIDENCE}.rate.write_study",
            page="rate.html",
            more="monosem rate --score ANSWERS.json --out RUN scores the saved answers.",
        ),
        "explain": Recipe(
            command="monosem explain RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl",
            function=f"{_EVIDENCE}.explain.measure",
            page="explain.html",
            more="By a language model instead of rules: --client URL --client-model NAME (any OpenAI-compatible "
            "endpoint).",
        ),
        "explain-logits": Recipe(
            command="monosem explain RUN --shuffled RUN_SHUFFLED --text TEXT.jsonl",
            function=f"{_EVIDENCE}.explain.measure",
            page="explain.html",
        ),
        "neurons": Recipe(
            command="monosem neurons RUN --text TEXT.jsonl",
            function=f"{_EVIDENCE}.neurons.measure",
            page="neurons.html",
        ),
        "steering": Recipe(
            command="monosem steer RUN --text TEXT.jsonl",
            function=f"{_EVIDENCE}.steer.measure",
            page="steering.html",
            more="Labels of yours: --labels SOURCE …; features of your choice: --pin 12=2x --add 7=0.5x.",
        ),
        "universality": Recipe(
            command="monosem compare RUN RUN_B --text TEXT.jsonl",
            function=f"{_EVIDENCE}.compare.measure",
            page="universality.html",
        ),
        "splitting": Recipe(
            command="monosem split RUN_512 RUN_4096 RUN_16384 --text TEXT.jsonl",
            function=f"{_EVIDENCE}.split.measure",
            page="splitting.html",
            more="Begin from any feature of the smallest: --feature 45.",
        ),
        "widths": Recipe(
            command="monosem widths RUN_512 RUN_4096 RUN_16384 --text TEXT.jsonl",
            function=f"{_EVIDENCE}.widths.measure",
            page="widths.html",
        ),
        "automata": Recipe(
            command="monosem automata RUN --text TEXT.jsonl",
            function=f"{_EVIDENCE}.automata.measure",
            page="automata.html",
        ),
    }
)

# Measurements that are no claims of the paper.
BEYOND = MappingProxyType(
    {
        "probing": Recipe(
            command="monosem probe RUN --text TEXT.jsonl",
            function="monosem.analysis.probing.probe",
            page="probing.html",
            more="--sae-probes reads the tasks of that package; --text 'reviews.csv?source=label' any labelled table.",
        ),
    }
)
