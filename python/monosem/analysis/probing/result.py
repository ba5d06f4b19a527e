"""The figures of k-sparse probing, and their table."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from monosem.analysis.metrics import plain

FEATURES, NEURONS = "features", "neurons"
_SHOWN = 30  # tasks of a table on the terminal


@dataclass(frozen=True)
class Probe:
    """A logistic regression, fitted on the training texts of a task and scored on its test texts.

    Attributes:
        on: ``"features"`` of the dictionary, or ``"neurons"``: the dimensions of the activation that it reads.
        k: of how many; None: of all.
        low, high: Wilson's 95 % interval of the accuracy, of the test texts.
        auc: area under the ROC curve.
        C: inverse strength of the penalty.
        units: numbers of the features or neurons, the one with the largest difference first.
        differences: of each, the mean over the positive training texts minus that over the negative ones.
    """

    on: str
    k: int | None
    accuracy: float
    low: float
    high: float
    auc: float
    C: float
    units: tuple[int, ...] = ()
    differences: tuple[float, ...] = ()


@dataclass(frozen=True)
class Task:
    """Texts of a label, told from those of another, or from the rest.

    Attributes:
        against: the other label; None: all others.
        train, test: numbers of texts, (of the label, of the rest).
        majority: the accuracy of the more frequent class of the training texts, on the test texts.
    """

    dataset: str
    label: str
    against: str | None
    train: tuple[int, int]
    test: tuple[int, int]
    majority: float
    probes: tuple[Probe, ...]

    @property
    def name(self) -> str:
        """For tables: the dataset only where the label does not say enough."""
        what = self.label if self.against is None else f"{self.label} / {self.against}"
        return f"{self.dataset}: {what}" if self.dataset else what

    def probe(self, on: str, k: int | None) -> Probe:
        return next(p for p in self.probes if (p.on, p.k) == (on, k))


@dataclass(frozen=True)
class ProbingResult:
    """Result of :func:`monosem.analysis.probing.probe`.

    Attributes:
        pool: how codes and activations are pooled over the tokens of a text.
        length: of a text, in tokens, BOS included; longer ones are cut.
        ks: numbers of features of the sparse probes.
        tasks: in the order of the texts.
        texts, tokens: all that were read, and their tokens that count.
        repeated: texts left out because another has the same tokens.
        empty: texts left out because none of their tokens counts.
        few: labels left out because they have too few texts.
    """

    model: str
    hook_name: str
    kind: str
    d_in: int
    d_sae: int
    pool: str
    length: int
    ks: tuple[int, ...]
    balanced: bool
    seed: int
    tasks: tuple[Task, ...]
    texts: int
    tokens: int
    repeated: int
    empty: int
    few: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, with the means over tasks."""
        return plain(asdict(self) | {"means": self.means()})

    def means(self) -> list[dict[str, Any]]:
        """Of each probe that every task has, the mean over tasks: ``on``, ``k``, ``accuracy``, ``auc``."""
        rows = []
        for on, k in [(p.on, p.k) for p in self.tasks[0].probes]:
            found = [task.probe(on, k) for task in self.tasks]
            accuracy, auc = (math.fsum(getattr(p, n) for p in found) / len(found) for n in ("accuracy", "auc"))
            rows.append({"on": on, "k": k, "accuracy": accuracy, "auc": auc})
        return rows

    def table(self) -> str:
        """The figures as text for a terminal."""
        left = [f"{self.repeated:,} repeated"] if self.repeated else []
        left += [f"{self.empty:,} without a token that counts"] if self.empty else []
        left += [f"labels of fewer texts: {', '.join(self.few)}"] if self.few else []
        majority = math.fsum(t.majority for t in self.tasks) / len(self.tasks)
        many = f"{len(self.tasks)} task" + ("s" if len(self.tasks) > 1 else "")
        over = "the last token" if self.pool == "last" else f"{self.pool} over the tokens"
        out = [
            f"{many}, {self.texts:,} texts, {self.tokens:,} tokens"
            + (f" (left out: {'; '.join(left)})" if left else ""),
            f"{self.d_sae:,} features ({self.kind}) of {self.hook_name} of {self.model}; {over} of a text",
            "",
            "  mean over tasks          accuracy    AUC",
            f"  majority class           {majority:8.1%}  0.500",
        ]
        for row in self.means():
            what = f"all {row['on']}" if row["k"] is None else counted(row["k"], row["on"])
            out.append(f"  {what:23}  {row['accuracy']:8.1%}  {row['auc']:.3f}")
        return "\n".join([*out, "", *self._of_tasks()])

    def _of_tasks(self) -> list[str]:
        wide, k = min(36, max(8, *(len(t.name) for t in self.tasks))), self.ks[0]
        heads = "".join(f"{f'k = {k}':>8}" for k in self.ks)
        neurons = f"{counted(k, NEURONS):>10}  all neurons"
        out = [f"  {'accuracy':{wide}}  test  majority{heads}{neurons}   feature (95 % of k = {k})"]
        for task in self.tasks[:_SHOWN]:
            first = task.probe(FEATURES, k)
            found = "".join(f"{task.probe(FEATURES, n).accuracy:8.1%}" for n in self.ks)
            neuron, every = task.probe(NEURONS, k), task.probe(NEURONS, None)
            out.append(
                f"  {task.name[:wide]:{wide}} {sum(task.test):5,}  {task.majority:8.1%}{found}{neuron.accuracy:10.1%}"
                f"{every.accuracy:13.1%}   #{first.units[0]} ({first.low:.0%} to {first.high:.0%})"
            )
        more = len(self.tasks) - _SHOWN
        return out + ([f"  … and {more} more, in the JSON and on the page"] if more > 0 else [])


def counted(k: int, units: str) -> str:
    """``1 feature``, ``2 features``."""
    return f"{k} {units.removesuffix('s') if k == 1 else units}"
