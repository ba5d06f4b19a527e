"""The terms of the page, and the commands that make the same page for another model."""

from __future__ import annotations

from html import escape

from monosem.analysis.evidence.recipes import TRAIN
from monosem.reproduce.context import Context
from monosem.reproduce.presets import CONTROL, FIRST, SECOND

_WORDS = (
    (
        "dictionary",
        "a sparse autoencoder: it writes each activation of the model as a sum of a few out of many learned "
        "directions. A/0, A/1, … are dictionaries of model A with more and more features, B/1 is one of model B, "
        "and shuffled/1 one of model A with the entries of every weight matrix permuted, a control that has learned "
        "nothing.",
    ),
    (
        "feature",
        "one of those directions; it is active, by some amount, on the tokens where the sum contains it. "
        "#123 is number 123 of the dictionary at hand, and opens in the browser of features under that number.",
    ),
    (
        "neuron",
        "one entry of the activation itself. The paper’s question is whether features are easier to understand "
        "than neurons.",
    ),
    ("L0", "how many features are active on a token, on average."),
    (
        "CE loss recovered",
        "how much of the layer’s part in predicting the next token survives when the activation is "
        "replaced by the sum: 100 % as good as untouched, 0 % no better than zeros. More than 100 % means that the sum "
        "predicts better than the activation itself, as in the control, whose layer is all noise.",
    ),
    ("explained variance", "1 − squared error of the sum / variance of the activation."),
    ("silent or dead", "never active on the text that was read."),
    ("ultralow", "a cluster of features that hardly ever fire and mean nothing."),
    ("proxy", "a rule, without any network, for how likely a token belongs to a kind of text, such as base64."),
    ("Pearson, ρ", "correlations between −1 and 1: of the values, and of their ranks (Spearman)."),
    ("logit weight", "how much a feature raises or lowers a next token, by the weights alone."),
)


def words() -> str:
    """The terms of the page, as HTML."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in _WORDS)
    return f'<details class="words" open><summary>Words on this page</summary><dl>{lines}</dl></details>'


def own_model(context: Context) -> str:
    """The commands from the reader's model to this page, as HTML."""
    whole = (
        f"monosem reproduce --preset {context.preset.name} --model MODEL --other MODEL_B --hook HOOK --text TEXT.jsonl "
        "--out OUT"
    )
    return (
        '<details class="words"><summary>The same for a model of yours</summary><ol class="own">'
        f"<li>Everything on this page at once: <code>{whole}</code>. MODEL and MODEL_B differ in their seed; where "
        "there is no second one, <code>--other none</code> leaves out the comparison of two models.</li>"
        f"<li>Or a dictionary of your own, <code>{TRAIN}</code>, and then any single claim: the table below has a "
        "command for each, and each writes its own section of this page beside the dictionary.</li>"
        "<li>To look at the features: <code>monosem features RUN --text TEXT.jsonl</code> writes a browser of all of "
        "them, which opens from disk.</li></ol></details>"
    )


def places(context: Context) -> dict[str, str]:
    """Values of the placeholders of the commands in this reproduction."""
    folder = lambda name: context.dictionary(name).relative_to(context.folder).as_posix()
    control = next((run.name for run in context.runs if run.model == CONTROL), None)
    placeholders = {
        "MODEL": context.model,
        "HOOK": context.hook_name,
        "TEXT.jsonl": context.text,
        "RUN": folder(context.preset.main),
        "RUN_512 RUN_4096 RUN_16384": " ".join(folder(run.name) for run in context.preset.of(FIRST)),
    }
    if context.other is not None:
        placeholders["RUN_B"] = folder(context.preset.main.replace(FIRST, SECOND, 1))
    return placeholders | ({"RUN_SHUFFLED": folder(control)} if control else {})
