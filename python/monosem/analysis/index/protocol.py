"""The interface by which the claims and pages read an index of features, whatever its class."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from torch import Tensor

from monosem.analysis.index.codes import Codes
from monosem.analysis.index.example import ActivationHistogram, Example, Partner, TokenCount
from monosem.analysis.scan import Rows
from monosem.analysis.sources import SourceMoments


class FeatureIndex(Protocol):
    """Activations of a dictionary over a text, feature by feature; attributes as in ``analysis.index.Index``."""

    meta: dict[str, Any]
    rows: Rows
    sources: list[str]
    tokens: int
    length: int
    maximum: Tensor
    counts: Tensor
    density: Tensor
    source_counts: Tensor
    moments: SourceMoments

    @property
    def d_sae(self) -> int: ...

    @property
    def codes(self) -> Codes: ...

    @property
    def stored_rows(self) -> np.ndarray: ...

    def top(self, feature: int, count: int | None = None) -> list[Example]: ...

    def random(self, feature: int, count: int | None = None) -> list[Example]: ...

    def interval(self, feature: int, i: int, count: int | None = None, intervals: int = ...) -> list[Example]: ...

    def spectrum(
        self, feature: int, per_interval: int | None = None, intervals: int = ...
    ) -> list[tuple[float, float, list[Example]]]: ...

    def bounds(self, feature: int, i: int, intervals: int = ...) -> tuple[float, float]: ...

    def histogram(self, feature: int, marks: bool = False) -> ActivationHistogram: ...

    def top_tokens(self, feature: int, count: int | None = None) -> list[TokenCount]: ...

    def common_tokens(self, count: int) -> tuple[Tensor, Tensor]: ...

    def coactive(self, feature: int, count: int | None = None) -> list[Partner]: ...

    def neuron_correlations(self, features: Tensor) -> Tensor: ...

    def neuron_cosines(self, features: Tensor) -> Tensor: ...
