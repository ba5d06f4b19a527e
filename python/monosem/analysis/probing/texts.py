"""Labelled texts for probes: a sample of each label, as tokens, each once; and who is told from whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from monosem.data.pieces import encode_documents
from monosem.data.protocols import LanguageModel
from monosem.data.text import AnyDocument

MOST_LABELS = 64
LEAST = 10  # texts of a label


@dataclass(frozen=True)
class LabelledRows:
    """Texts as tokens.

    Attributes:
        rows: int32 ids of each, behind a BOS.
        labels: of each; a label is the source of a document.
        repeated: how many were left out because an earlier one has the same tokens.
    """

    rows: list[np.ndarray]
    labels: np.ndarray
    repeated: int


def sampled(documents: Iterable[AnyDocument], most: int, seed: int) -> list[AnyDocument]:
    """At most ``most`` documents of each label, drawn at random and uniformly, in the order of the text.

    Documents are read one after the other; only the sample is held.

    Raises:
        ValueError: more than ``MOST_LABELS`` labels.
    """
    draw = np.random.default_rng(seed)
    held: dict[str, list[tuple[int, AnyDocument]]] = {}
    seen: dict[str, int] = {}
    for number, document in enumerate(documents):
        label = document.source
        if label not in held and len(held) == MOST_LABELS:
            raise ValueError(
                f"text: got more than {MOST_LABELS} labels ({', '.join(list(held)[:3])}, …); wanted few, of many texts "
                "each. Name the column that holds them: FILE?source=NAME."
            )
        of_label = held.setdefault(label, [])
        seen[label] = seen.get(label, 0) + 1
        if len(of_label) < most:
            of_label.append((number, document))
        elif (place := int(draw.integers(seen[label]))) < most:
            of_label[place] = (number, document)
    return [document for _, document in sorted((pair for pairs in held.values() for pair in pairs), key=_number)]


def _number(pair: tuple[int, AnyDocument]) -> int:
    return pair[0]


def as_rows(documents: Iterable[AnyDocument], model: LanguageModel, length: int, *, end: bool) -> LabelledRows:
    """Documents as tokens, each cut to ``length``, BOS included, and each once.

    Texts with the same tokens would stand in training and in test: the first one stays.

    Args:
        end: whether the end of a longer text is read, in place of its beginning.
    """
    rows, labels, seen, repeated = [], [], set(), 0
    for label, ids in encode_documents(documents, model):
        kept = ids[len(ids) - min(len(ids), length - 1) :] if end else ids[: length - 1]
        row = np.concatenate([np.array([model.bos_id], np.int32), kept.astype(np.int32)])
        if (key := row.tobytes()) in seen:
            repeated += 1
            continue
        seen.add(key)
        rows.append(row)
        labels.append(label)
    return LabelledRows(rows, np.array(labels, dtype=object), repeated)


@dataclass(frozen=True)
class Sides:
    """Which texts a probe tells apart: places among the texts, of training and of test, with y = 1 for the label."""

    label: str
    against: str | None  # the other label of two; None: all others
    train: np.ndarray
    y_train: np.ndarray
    test: np.ndarray
    y_test: np.ndarray


def tasks_of(
    labels: np.ndarray, *, chosen: Sequence[str] | None, test: float, balanced: bool, seed: int
) -> list[Sides]:
    """One task for each label against the rest; of two labels one task, in which the second is positive.

    Texts are divided into training and test once, each label by the same share, so that no task trains on what another
    tests.

    Args:
        chosen: labels that are told from the rest; None: all.
        test: the share of the texts that is tested on.
        balanced: whether as many texts of the label as of the rest are taken.

    Raises:
        ValueError: fewer than two labels with enough texts, or a chosen one that is not there.
    """
    from sklearn.model_selection import train_test_split

    names, counts = np.unique(labels.astype(str), return_counts=True)
    there = [str(name) for name, count in zip(names, counts, strict=True) if count >= LEAST]
    if len(there) < 2:
        found = ", ".join(f"{n} {c}" for n, c in zip(names[:8], counts, strict=False)) or "none"
        raise ValueError(
            f"text: got labels with these numbers of different texts: {found}; wanted at least two labels of {LEAST} "
            "or more. The label is the column 'source' or 'label'; name another: FILE?source=NAME. Texts whose "
            "tokens are the same count once: --length reads more of each."
        )
    if missing := [name for name in chosen or () if name not in there]:
        raise ValueError(f"labels: got {missing[0]!r}; wanted some of {', '.join(there)}")
    usable = np.flatnonzero(np.isin(labels.astype(str), there))
    train, tested = train_test_split(usable, test_size=test, stratify=labels[usable].astype(str), random_state=seed)
    positives = list(chosen) if chosen else there[1:] if len(there) == 2 else there
    tasks = []
    for label in positives:
        draw = np.random.default_rng([seed, there.index(label)])
        sides = [_side(labels, part, label, balanced, draw) for part in (np.sort(train), np.sort(tested))]
        other = next(name for name in there if name != label) if len(there) == 2 else None
        tasks.append(Sides(label, other, *sides[0], *sides[1]))
    return tasks


def _side(
    labels: np.ndarray, part: np.ndarray, label: str, balanced: bool, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(places, y) of the texts of a task among ``part``."""
    mine = labels[part] == label
    groups = [part[~mine], part[mine]]
    if balanced:
        few = min(map(len, groups))
        groups = [np.sort(draw.permutation(group)[:few]) for group in groups]
    y = np.repeat([0, 1], [len(group) for group in groups])
    return np.concatenate(groups), y
