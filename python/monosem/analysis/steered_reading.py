"""The effect of edited features on the likelihood of text, by source."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from monosem.analysis.inputs import Subject
from monosem.analysis.scan import Rows, check, spread
from monosem.analysis.steering import Steering, log_likelihood_change
from monosem.data.counted import counted, skipped_ids


@dataclass(frozen=True)
class Reading:
    """Mean change of log P(token) in nats, over all tokens and those of each source; negative: less likely.

    ``sources``: {name: (mean change, standard error of that mean, tokens)}.
    """

    edits: tuple[str, ...]
    error: str
    change: float
    tokens: int
    sources: dict[str, tuple[float, float, int]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The sources, the most affected first."""
        width = max(6, *map(len, self.sources))
        lines = [f"{'source':{width}}  nats per token ±         tokens"]
        order = sorted(self.sources.items(), key=lambda item: -abs(item[1][0]))
        for name, (mean, error, n) in [*order, ("all", (self.change, float("nan"), self.tokens))]:
            lines.append(f"{name:{width}}  {mean:+12.5f}   {error:.5f}  {n:>7,}" if n else f"{name:{width}}  no tokens")
        return "\n".join(lines)


@torch.no_grad()
def reading(
    subject: Subject,
    rows: Rows,
    steering: Steering,
    *,
    tokens: int | None = None,
    contexts: int = 16,
    progress: bool = False,
) -> Reading:
    """Read text with and without the changes.

    Args:
        tokens: read about so many, in evenly spaced rows (default: all).
        contexts: rows at a time.
    """
    check(subject.sae, subject.model, subject.hook_name, rows, steering.skip_positions)
    count = len(rows.sources)
    sums, squares, n = np.zeros(count), np.zeros(count), np.zeros(count, dtype=np.int64)
    select = spread(rows, tokens)
    first = steering.skip_positions  # the positions left alone predict as before
    left_out = skipped_ids(subject.model)
    with tqdm(total=select.size * np.shape(rows.tokens)[1], unit="tok", unit_scale=True, disable=not progress) as bar:
        for start in range(0, len(select), contexts):
            run = select[start : start + contexts]
            ids = torch.from_numpy(np.asarray(rows.tokens[run]).astype(np.int64))
            change = log_likelihood_change(subject.model, subject.hook_name, ids, steering)[:, first:]
            scored = counted(ids[:, first + 1 :].numpy(), 0, left_out)
            flat = change.cpu().double().numpy()[scored]
            source = np.asarray(rows.source[run])[:, first + 1 :][scored].astype(np.int64)
            sums += np.bincount(source, flat, count)
            squares += np.bincount(source, flat * flat, count)
            n += np.bincount(source, minlength=count)
            bar.update(ids.numel())
    mean = sums / np.maximum(n, 1)
    error = np.sqrt(np.maximum(squares / np.maximum(n, 1) - mean * mean, 0) / np.maximum(n, 1))
    by_source = {name: (float(mean[i]), float(error[i]), int(n[i])) for i, name in enumerate(rows.sources)}
    return Reading(
        edits=tuple(map(str, steering.edits)),
        error=steering.error,
        change=float(sums.sum() / max(1, n.sum())),
        tokens=int(n.sum()),
        sources=by_source,
    )
