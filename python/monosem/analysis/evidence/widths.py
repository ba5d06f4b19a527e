"""How many features live in 512 neurons: dictionaries of several widths, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from monosem.analysis.evidence.tables import figure
from monosem.analysis.evidence.ultralow import separate
from monosem.analysis.inputs import Subject
from monosem.analysis.metrics import density_histogram, evaluate, plain
from monosem.analysis.scan import Block, Rows, blocks, spread
from monosem.analysis.sources import sources_read


@dataclass(frozen=True)
class WidthsResult:
    """Result of :func:`measure`.

    Attributes:
        d_in: neurons. tokens: of the losses. density_tokens: of the densities.
        runs: one dict per dictionary, narrowest first: ``name``, ``kind``, ``d_sae``, ``live`` (active and outside the
            ultralow cluster), ``ultralow``, ``dead``, ``separation`` (how, in words), ``cut``, ``l0``,
            ``ce_loss_recovered``, ``explained_variance``, ``above_1_percent``, ``edges`` (log10 density), ``counts``
            and ``low_counts`` (of the cluster).
    """

    model: str
    hook_name: str
    d_in: int
    tokens: int
    density_tokens: int
    runs: tuple[dict[str, Any], ...]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return plain(asdict(self))

    def table(self) -> str:
        """The figures as text for a terminal."""
        out = [
            f"{self.d_in:,} neurons at {self.hook_name} of {self.model}; losses on {self.tokens:,} tokens, densities "
            f"on {self.density_tokens:,}",
            "",
            "  dictionary            features      live  ultralow      dead     L0  CE recovered  variance  cluster",
        ]
        for r in self.runs:
            out.append(
                f"  {r['name'][-20:]:20}  {r['d_sae']:8,}  {r['live']:8,}  {r['ultralow']:8,}  {r['dead']:8,}  "
                f"{r['l0']:5.1f}  {figure(r['ce_loss_recovered'], '.2%'):>12}  "
                f"{figure(r['explained_variance'], '.2%'):>8}  {r['separation']}"
            )
        return "\n".join(out)


@torch.no_grad()
def measure(
    subjects: Mapping[str, Subject],
    rows: Rows,
    *,
    tokens: int | None = None,
    density_tokens: int | None = None,
    contexts: int = 16,
    skip_positions: int = 1,
    progress: bool = True,
) -> WidthsResult:
    """Compare dictionaries of one model and hook (*Towards Monosemanticity*, "Feature Density", "Loss recovered").

    Args:
        subjects: {name: dictionary}, all of one hook of one model.
        tokens: about so many for the losses (three forward passes each), in evenly spaced rows.
        density_tokens: about so many for the densities; a density below 1 / density_tokens cannot be seen.
            Default: as many as ``tokens``.

    Raises:
        ValueError: no dictionary, dictionaries of several hooks or models, one that does not fit the hook, or nothing
            to read.
    """
    if not subjects:
        raise ValueError("subjects: got none; wanted at least one dictionary")
    first = next(iter(subjects.values()))
    model, hook_name = first.model, first.hook_name
    places = {(s.model.name, s.hook_name) for s in subjects.values()}
    if len(places) > 1:
        raise ValueError(
            f"subjects: got dictionaries of {', '.join(' at '.join(p) for p in sorted(places))}; wanted one hook of "
            "one model"
        )
    select = spread(rows, density_tokens or tokens)
    more = len(select) > len(spread(rows, tokens))
    runs, scored, baselines = [], (0, 0), {}
    for name, sae in sorted(
        ((name, s.sae) for name, s in subjects.items()), key=lambda item: (item[1].cfg.d_sae, item[0])
    ):
        counts = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device="cpu")
        seen = 0

        def count(block: Block, counts: torch.Tensor = counts) -> None:
            nonlocal seen
            counts += torch.bincount(block.features, minlength=len(counts))
            seen += len(block.source)

        evaluation = evaluate(
            sae,
            model,
            hook_name,
            rows,
            tokens=tokens,
            contexts=contexts,
            skip_positions=skip_positions,
            observers=() if more else (count,),
            baselines=baselines,
            progress=progress,
        )
        if more:
            for block in blocks(
                sae,
                model,
                hook_name,
                rows,
                select=select,
                contexts=contexts,
                skip_positions=skip_positions,
                progress=f"densities of {name}" if progress else None,
            ):
                count(block)
        cluster = separate(counts, seen, sae)
        low = torch.from_numpy(cluster.low)
        edges, bars = density_histogram(counts, seen)
        dead = int((counts == 0).sum())
        runs.append(
            {
                "name": name,
                "kind": str(sae.cfg.kind),
                "d_sae": sae.cfg.d_sae,
                "live": sae.cfg.d_sae - dead - int(low.sum()),
                "ultralow": int(low.sum()),
                "dead": dead,
                "separation": cluster.words,
                "how": cluster.how,
                "cut": cluster.cut,
                "l0": evaluation.l0,
                "ce_loss_recovered": evaluation.ce_loss_recovered,
                "explained_variance": evaluation.explained_variance,
                "above_1_percent": int((counts / seen > 0.01).sum()),
                "edges": list(edges),
                "counts": list(bars),
                "low_counts": list(density_histogram(counts[low], seen)[1]),
            }
        )
        scored = evaluation.tokens, seen
    return WidthsResult(
        model=model.name,
        hook_name=hook_name,
        d_in=model.width(hook_name),
        tokens=scored[0],
        density_tokens=scored[1],
        runs=tuple(runs),
        sources=tuple(sources_read(rows)),
    )
