"""Probes on pooled codes or activations: which columns, and a logistic regression of scikit-learn on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.analysis.probing.result import Probe

CHOICES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse strengths of the penalty of a probe that reads all columns
_FOLDS = 3


def differences(pooled: Any, y: np.ndarray) -> np.ndarray:
    """Mean of the positive texts minus mean of the negative ones, float64 [columns].

    Args:
        pooled: a CSR matrix or an array, [texts, columns].
    """
    means = [np.asarray(pooled[np.flatnonzero(y == side)].mean(axis=0, dtype=np.float64)).ravel() for side in (1, 0)]
    return means[0] - means[1]


def sparse_probes(on: str, train: Any, y: np.ndarray, test: Any, y_test: np.ndarray, ks: Sequence[int]) -> list[Probe]:
    """For each k a probe on the k columns whose means over the positive and the negative texts differ most."""
    difference = differences(train, y)
    ranking = np.argsort(-np.abs(difference), kind="stable")[: max(ks)]  # of equal ones the first
    probes = []
    for k in ks:
        chosen = ranking[:k]
        figures = _scores(_dense(train[:, chosen]), y, _dense(test[:, chosen]), y_test, _model(1.0))
        units, by = tuple(chosen.tolist()), tuple(difference[chosen].tolist())
        probes.append(Probe(on=on, k=k, C=1.0, units=units, differences=by, **figures))
    return probes


def whole_probe(on: str, train: Any, y: np.ndarray, test: Any, y_test: np.ndarray, seed: int) -> Probe:
    """A probe on all columns; the strength of its penalty is chosen by cross-validation on the training texts."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = min(_FOLDS, int(np.bincount(y, minlength=2).min()))
    model = _model(1.0, centred=not _is_sparse(train))
    if folds > 1:
        split = StratifiedKFold(folds, shuffle=True, random_state=seed)
        grid = {"logisticregression__C": CHOICES}
        found = GridSearchCV(model, grid, cv=split, scoring="roc_auc", refit=False).fit(train, y)
        model.set_params(**found.best_params_)
    figures = _scores(train, y, test, y_test, model)
    return Probe(on=on, k=None, C=float(model.get_params()["logisticregression__C"]), **figures)


def _model(c: float, centred: bool = True) -> Any:
    """Columns are divided by their standard deviation: features and neurons come in units of their own."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(with_mean=centred), LogisticRegression(C=c, max_iter=1000))


def _scores(train: Any, y: np.ndarray, test: Any, y_test: np.ndarray, model: Any) -> dict[str, Any]:
    from scipy.stats import binomtest
    from sklearn.metrics import roc_auc_score

    model.fit(train, y)
    right = int((model.predict(test) == y_test).sum())
    interval = binomtest(right, len(y_test)).proportion_ci(0.95, method="wilson")
    return {
        "accuracy": right / len(y_test),
        "low": float(interval.low),
        "high": float(interval.high),
        "auc": float(roc_auc_score(y_test, model.decision_function(test))),
    }


def _is_sparse(pooled: Any) -> bool:
    return not isinstance(pooled, np.ndarray)


def _dense(columns: Any) -> np.ndarray:
    """[texts, k], float64."""
    return np.asarray(columns.todense() if _is_sparse(columns) else columns, dtype=np.float64)
