"""k-sparse probing of a dictionary on labelled texts, against the same probes of the activation itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from monosem.analysis.probing.fit import sparse_probes, whole_probe
from monosem.analysis.probing.pooled import POOLS, pool
from monosem.analysis.probing.result import FEATURES, NEURONS, ProbingResult, Task
from monosem.analysis.probing.texts import LEAST, Sides, as_rows, sampled, tasks_of
from monosem.data.counted import BY_NAME, SkipTokens
from monosem.data.extras import needed
from monosem.data.norm_limit import AS_TRAINED, SkipNorm
from monosem.data.protocols import LanguageModel
from monosem.data.text import AnyDocument
from monosem.nn.dictionary import Dictionary

KS = (1, 2, 5)
LENGTH = 128


def probe(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    texts: Iterable[AnyDocument] | Mapping[str, Iterable[AnyDocument]],
    *,
    ks: Sequence[int] | None = None,
    pool_by: str = "mean",
    labels: Sequence[str] | None = None,
    per_label: int = 500,
    length: int | None = None,
    test: float = 0.2,
    balanced: bool = True,
    all_features: bool = False,
    seed: int = 0,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    skip_norm: SkipNorm | str = AS_TRAINED,
    progress: bool = True,
) -> ProbingResult:
    """How well k features of a dictionary tell texts of a label from others, for each label and each k.

    Of the codes of a text, pooled over its tokens, the k features are those with the largest |mean over the texts of
    the label − mean over the rest| on the training texts (SAEBench, "sparse probing"). A logistic regression on them is
    scored on the test texts; beside it stand the same of k neurons, one on all neurons, and the majority class.

    Args:
        texts: documents whose ``source`` is the label, such as ``ms.documents("FILE.csv?source=label")``; or several
            such sets, {name: documents}.
        ks: numbers of features; None: 1, 2 and 5, as far as there are so many.
        pool_by: ``"mean"``, ``"max"`` or ``"last"`` (``pooled.pool``).
        labels: those told from the rest; None: all; of two labels, the second from the first.
        per_label: most texts of each label.
        length: tokens of a text, BOS included; longer ones keep their beginning, or with "last" their end. Default 128,
            or what the model reads at most.
        test: share of the texts that is tested on.
        balanced: as many texts of the label as of the rest, in training and in test; else all there are.
        all_features: also probe on the codes of all features, as they are, sparse.
        seed: of the sample, of training and test, and of the texts of the rest.

    Raises:
        ValueError: too few texts, an unknown label, an option out of range, or a dictionary that does not fit the hook.
        ImportError: scikit-learn is missing.
    """
    needed("sklearn", "probe: it fits logistic regressions")
    ks = _checked_ks(ks, min(sae.cfg.d_sae, model.width(hook_name)))
    length = _checked_length(length, model)
    if pool_by not in POOLS:
        raise ValueError(f"pool: got {pool_by!r}; wanted one of {', '.join(map(repr, POOLS))}")
    if not 0.1 <= test <= 0.9:
        raise ValueError(f"test: got {test}; wanted the share of the texts that is tested on, 0.1 to 0.9")
    if per_label < LEAST:
        raise ValueError(f"per_label (texts): got {per_label}; wanted at least {LEAST} of each label")
    tasks: list[Task] = []
    counts = {"texts": 0, "tokens": 0, "repeated": 0, "empty": 0}
    few: list[str] = []
    datasets = cast("Mapping[str, Iterable[AnyDocument]]", texts if isinstance(texts, Mapping) else {"": texts})
    for name, documents in datasets.items():
        rows = as_rows(sampled(documents, per_label, seed), model, length, end=pool_by == "last")
        pooled = pool(
            sae,
            model,
            hook_name,
            rows.rows,
            how=pool_by,
            skip_positions=skip_positions,
            skip_tokens=skip_tokens,
            skip_norm=skip_norm,
            progress=(name or "texts") if progress else None,
        )
        read = np.flatnonzero(pooled.tokens > 0)
        found = rows.labels[read]
        sides = tasks_of(found, chosen=labels, test=test, balanced=balanced, seed=seed)
        codes, inputs = pooled.codes[read], pooled.inputs[read]
        tasks += [_task(name, side, codes, inputs, ks, all_features, seed) for side in sides]
        counts["texts"] += len(read)
        counts["tokens"] += int(pooled.tokens.sum())
        counts["repeated"] += rows.repeated
        counts["empty"] += len(rows.rows) - len(read)
        names, numbers = np.unique(found.astype(str), return_counts=True)
        few += [f"{name}: {n}" if name else str(n) for n, c in zip(names, numbers, strict=True) if c < LEAST]
    if not tasks:
        raise ValueError("texts: got none; wanted at least one set of labelled texts")
    return ProbingResult(
        model=model.name,
        hook_name=hook_name,
        kind=str(sae.cfg.kind),
        d_in=model.width(hook_name),
        d_sae=sae.cfg.d_sae,
        pool=pool_by,
        length=length,
        ks=ks,
        balanced=balanced,
        seed=seed,
        tasks=tuple(tasks),
        few=tuple(few),
        **counts,
    )


def _task(
    dataset: str, sides: Sides, codes: Any, inputs: np.ndarray, ks: Sequence[int], all_features: bool, seed: int
) -> Task:
    y, y_test = sides.y_train, sides.y_test
    probes = []
    for on, pooled in ((FEATURES, codes), (NEURONS, inputs)):
        train, test = pooled[sides.train], pooled[sides.test]
        probes += sparse_probes(on, train, y, test, y_test, ks)
        if on == NEURONS or all_features:
            probes.append(whole_probe(on, train, y, test, y_test, seed))
    more = int(2 * y.sum() >= len(y))  # the more frequent class of the training texts
    return Task(
        dataset=dataset,
        label=sides.label,
        against=sides.against,
        train=(int(y.sum()), int((1 - y).sum())),
        test=(int(y_test.sum()), int((1 - y_test).sum())),
        majority=float((y_test == more).mean()),
        probes=tuple(probes),
    )


def _checked_ks(ks: Sequence[int] | None, most: int) -> tuple[int, ...]:
    if ks is None:
        return tuple(k for k in KS if k <= most)
    if not ks or any(not 1 <= k <= most for k in ks):
        raise ValueError(f"k: got {list(ks)}; wanted numbers from 1 to {most:,}: there are no more features or neurons")
    return tuple(sorted(set(ks)))


def _checked_length(length: int | None, model: LanguageModel) -> int:
    if length is None:
        return min(LENGTH, model.n_ctx)
    if not 2 <= length <= model.n_ctx:
        raise ValueError(
            f"length: got {length}; wanted 2 to {model.n_ctx} tokens, BOS included, as {model.name!r} reads no more"
        )
    return int(length)
