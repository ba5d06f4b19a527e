"""How well a dictionary explains a model: every figure of `monosem evaluate`, in one pass over the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monosem.analysis.evaluation_sums import Sums
from monosem.analysis.index.fingerprint import of_dictionary, of_text
from monosem.analysis.joined import Joined, target_of
from monosem.analysis.scan import (
    Block,
    Rows,
    blocks,
    check,
    mean_activation,
    norm_limit,
    nothing_counts,
    own_rows,
    spread,
)
from monosem.analysis.sources import LabelFeature, SourceMoments, group_sources
from monosem.analysis.unit_rows import check_reconstructs
from monosem.data import sealed
from monosem.data.counted import BY_NAME, SkipTokens, TokenFilter, skipped_ids
from monosem.data.norm_limit import AS_TRAINED, NormLimit, SkipNorm
from monosem.data.protocols import LanguageModel, of_texts, predicts_next
from monosem.data.serialization import unfinished
from monosem.distributed.peers import ALONE, Peers, in_step
from monosem.nn.dictionary import Dictionary

ULTRALOW = 1e-6  # Towards Monosemanticity, "Feature Density": the cluster below it is almost never interpretable


@dataclass(frozen=True)
class SourceScore:
    """The figures on the tokens of one source."""

    source: str
    tokens: int
    l0: float
    explained_variance: float
    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_loss_recovered: float


@dataclass(frozen=True)
class PlaceScore:
    """The figures of one source of a crosscoder, and how many of the features that are not dead are its own.

    ``exclusive``: features whose relative decoder norm at this source is at least ``nn.architectures.crosscoder``'s
    ``EXCLUSIVE``.
    """

    model: str
    hook_name: str
    explained_variance: float
    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_loss_recovered: float
    exclusive: int


@dataclass(frozen=True)
class Evaluation:
    """How much of a model a dictionary preserves, on given text.

    x is the activation that the dictionary is to reconstruct, x̂ its reconstruction: what it reads; for a transcoder the
    output y that it predicts, and ŷ (its input stays as it is); for a crosscoder that of one of its sources, in its
    own model.

    * ``l0``: mean number of active features on a token: those that are not 0.
    * ``mse``: mean over tokens and dimensions of (x − x̂)².
    * ``explained_variance``: 1 − FVU = 1 − Σ‖x − x̂‖² / Σ‖x − x̄‖², x̄ the mean of all tokens.
    * ``cosine``, ``norm_ratio``: means over tokens of cos(x, x̂) and ‖x̂‖ / ‖x‖ (tokens with x = 0 left out).
    * ``ce_clean``, ``ce_sae``, ``ce_zero``: nats per token of the model untouched, with x̂ in place of x, with zero
      in its place; ``ce_mean``: with the mean activation of 64 contexts. ``ce_loss_recovered`` = (ce_zero − ce_sae) /
      (ce_zero − ce_clean), ``ce_loss_recovered_of_mean`` the same with ce_mean for ce_zero, ratios of pooled losses
      (Towards Monosemanticity, "Loss recovered"). What is left out (``skip_positions`` at the start of a row,
      ``skip_tokens`` anywhere, tokens with a norm beyond ``skip_norm``) keeps its activation and is not counted; nor is
      the loss of predicting one of ``skip_tokens``.
    * ``kl_sae``, ``kl_zero``, ``kl_mean``: mean KL(untouched ‖ replaced) of the predictions of these tokens, nats. They
      and ce_mean are None for a model without ``compared_losses``, or beside ``baselines``. Where no next token is
      predicted, by an encoder, the other figures of cross-entropy are NaN.
    * ``skip_norm``: the limit on the norm, with ``left_out``, the number of tokens that it left out; None: none.
    * ``dead``: features never active on these ``tokens``. ``ultralow``: active, with a density below
      ``ultralow_bound`` = max(1e-6, 2 / tokens): no fewer than two tokens can be told from one.
    * ``density_edges`` (log10) and ``density_counts``: histogram of the share of tokens on which a feature is active,
      dead features left out; ``above_1_percent`` counts the features denser than 1 %.
    * ``labels``: for each label the feature whose activation correlates best with it on these tokens.
    * ``places``: of a crosscoder, the figures of each of its sources.
    * ``unit``: "text" where each text has one vector (``data.vectors``): then ``tokens`` counts texts.
    * ``config``, ``metadata``: of the dictionary, so that the figures and how it was made stay together.
    """

    model: str
    hook_name: str
    kind: str
    d_in: int
    d_sae: int
    tokens: int
    contexts: int
    skip_positions: int
    skip_tokens: tuple[int, ...]
    l0: float
    mse: float
    explained_variance: float
    cosine: float
    norm_ratio: float
    ce_clean: float
    ce_sae: float
    ce_zero: float
    ce_loss_recovered: float
    dead: int
    ultralow: int
    ultralow_bound: float
    above_1_percent: int
    density_edges: tuple[float, ...]
    density_counts: tuple[int, ...]
    by_source: tuple[SourceScore, ...]
    labels: tuple[LabelFeature, ...]
    config: dict[str, Any]
    metadata: dict[str, Any]
    places: tuple[PlaceScore, ...] = ()
    skip_norm: dict[str, Any] | None = None
    ce_mean: float | None = None
    ce_loss_recovered_of_mean: float | None = None
    kl_sae: float | None = None
    kl_zero: float | None = None
    kl_mean: float | None = None
    unit: str = "token"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON (a figure that is not finite becomes None)."""
        return plain(asdict(self))

    def write_json(self, path: str | Path, made_from: Mapping[str, Any] | None = None) -> None:
        """Write the JSON file atomically, with its checksum and what the evaluation was made from."""
        made = {"made_from": dict(made_from)} if made_from is not None else {}
        sealed.write(Path(path), self.to_dict() | made, allow_nan=False)

    def _of_predictions(self) -> list[str]:
        """Lines of a table on the mean activation and the divergences, where they were measured."""
        if self.ce_mean is None or self.ce_loss_recovered_of_mean is None:
            return []
        return [
            f"  the same, from mean   {self.ce_loss_recovered_of_mean:10.2%}   mean activation {self.ce_mean:.4f} nats",
            f"  KL from untouched     {self.kl_sae:10.4f}   SAE; zero {self.kl_zero:.4f}, mean {self.kl_mean:.4f} nats",
        ]

    def table(self) -> str:
        """The figures as text for a terminal."""
        dead, low = self.dead / self.d_sae, self.ultralow / self.d_sae
        unresolved = self.ultralow_bound > ULTRALOW
        by_token = self.unit == "token"
        where = f"in {self.contexts:,} contexts" if by_token else "of one vector each"
        left = [f"the first {self.skip_positions} of each"] if self.skip_positions and by_token else []
        left += [f"token {', '.join(map(str, self.skip_tokens))}"] if self.skip_tokens and by_token else []
        if self.skip_norm is not None:
            left.append(f"{self.skip_norm['left_out']:,} {self.unit}s with {NormLimit.from_json(self.skip_norm)}")
        lines = [
            f"{self.kind} SAE, {self.d_sae:,} features on {self.hook_name} ({self.d_in} wide) of {self.model}",
            f"{self.tokens:,} scored {self.unit}s {where}; "
            + (f"left as they are: {' and '.join(left)}" if left else "none left out"),
            *([f"this is {unfinished(self.metadata)}"] if self.metadata.get("finished") is False else []),
            "",
            f"  L0                    {self.l0:10.2f}   features per {self.unit}",
            f"  explained variance    {self.explained_variance:10.2%}   1 - FVU",
            f"  mean squared error    {self.mse:10.5f}",
            f"  cosine, norm ratio    {self.cosine:10.4f}   {self.norm_ratio:.4f}",
            "  CE loss recovered           none   no next token was predicted"
            if math.isnan(self.ce_clean)
            else f"  CE loss recovered     {self.ce_loss_recovered:10.2%}   "
            f"clean {self.ce_clean:.4f}, SAE {self.ce_sae:.4f}, zero {self.ce_zero:.4f} nats",
            *self._of_predictions(),
            f"  dead features         {self.dead:10,}   {dead:.2%}, never active on these {self.unit}s",
            f"  ultralow density      {self.ultralow:10,}   {low:.2%}, below {self.ultralow_bound:.1e}"
            + (f" (all that this many {self.unit}s resolve)" if unresolved else ""),
            f"  denser than 1 %       {self.above_1_percent:10,}",
        ]
        if self.places:
            lines += ["", "  Each source              explained variance  CE loss recovered  features of its own"]
            lines += [
                f"  {p.model:8} {p.hook_name:24} {p.explained_variance:8.2%}  {p.ce_loss_recovered:17.2%}  "
                f"{p.exclusive:19,}"
                for p in self.places
            ]
            own = sum(p.exclusive for p in self.places)
            lines += [f"  shared features       {self.d_sae - self.dead - own:10,}   of those that are active"]
        if self.labels:
            lines += ["", f"  The feature that correlates best with each label on these {self.unit}s"]
            lines += ["  label        feature  correlation      precision        recall"]
            lines += [
                f"  {s.label:12} {s.feature:7}  {s.correlation:11.3f}  {s.precision:13.1%}  {s.recall:12.1%}"
                for s in self.labels
            ]
        return "\n".join(lines)


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts for JSON: a figure that is not finite becomes None."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def density_histogram(counts: Tensor, tokens: int, per_decade: int = 5) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Histogram of log10(counts / tokens) of the features that fired: (edges, features in each bin).

    The edges run from the decade of a single token to 0, ``per_decade`` bins a decade.
    """
    decades = max(1, math.ceil(math.log10(max(tokens, 2))))
    edges = np.linspace(-decades, 0, decades * per_decade + 1)
    alive = counts[counts > 0].double().numpy() / tokens
    return tuple(edges.tolist()), tuple(np.histogram(np.log10(alive), edges)[0].tolist())


def evaluate(
    sae: Dictionary,
    model: LanguageModel,
    hook_name: str,
    rows: Rows,
    *,
    tokens: int | None = None,
    contexts: int = 16,
    skip_positions: int = 1,
    skip_tokens: SkipTokens = BY_NAME,
    labels: Mapping[str, Sequence[str]] | None = None,
    observers: Sequence[Callable[[Block], None]] = (),
    baselines: dict[Any, tuple[torch.Tensor, torch.Tensor]] | None = None,
    progress: bool = True,
    skip_norm: SkipNorm | str = AS_TRAINED,
    peers: Peers = ALONE,
) -> Evaluation:
    """Evaluate a dictionary on text it was not trained on.

    Args:
        sae: any autoencoder of ``monosem.nn``.
        model: an adapter of ``monosem.data.models``.
        hook_name: where the SAE belongs.
        rows: packed token rows with their sources.
        tokens: at most about this many, in evenly spaced rows (default: all).
        contexts: rows per block; the memory is that of one block.
        skip_positions: leading positions of a row that keep their own activation and are not scored.
        skip_tokens: the same for these tokens wherever they stand: ids, ``"bos"``, ``"pad"``; nor is the loss of
            predicting one counted.
        labels: {label: prefixes of source names}; see ``sources.group_sources``.
        observers: called with every block, so that a feature index can share the pass.
        baselines: shared by the evaluations of several dictionaries on the same text (``scan.blocks``).
        skip_norm: the same for tokens whose norm exceeds this multiple of the median norm; "as trained": as when the
            dictionary was trained (``scan.norm_limit``); None: none.
        peers: processes that divide the rows among them (``distributed.ranks.of_all()``). All make the same call and
            get the same figures, those of one process but for the rounding of float64 sums; ``observers`` are called
            with the blocks of their own.

    Raises:
        ValueError: the SAE does not fit the hook, there are no tokens, or the hook is unknown.
    """
    moments = SourceMoments(sae.cfg.d_sae, rows.sources)
    negative = torch.zeros(sae.cfg.d_sae, dtype=torch.float64, device="cpu")  # tokens on which each feature is below 0
    sums = Sums(len(sae.b_dec), len(rows.sources))
    select, left_out = spread(rows, tokens), skipped_ids(model, skip_tokens)
    limit = norm_limit(skip_norm, sae, model, hook_name, rows, skip_positions, skip_tokens)
    mean, beyond = None, torch.zeros((), dtype=torch.int64, device="cpu")
    if peers.size > 1:
        read = (of_text(rows), of_dictionary(sae), model.name, select.tolist()[:: max(1, len(select) - 1)])
        peers.same("rows", "text, dictionary or model", read, "Give the same to every process.")
    written = target_of(model, hook_name)[0]
    if baselines is None and hasattr(written, "compared_losses") and predicts_next(written):
        check(sae, model, hook_name, rows, skip_positions)
        if not isinstance(model, Joined):
            check_reconstructs(sae)
        mean = mean_activation(sae, model, hook_name, rows, select, skip_positions, skip_tokens, limit, peers)
    mine = blocks(
        sae,
        model,
        hook_name,
        rows,
        losses=True,
        select=own_rows(select, model, contexts, peers),
        contexts=contexts,
        skip_positions=skip_positions,
        skip_tokens=skip_tokens,
        baselines=baselines,
        mean=mean,
        progress="evaluating" if progress and peers.is_first else None,
        limit=limit,
        may_be_empty=True,
    )

    def add(block: Block) -> None:
        beyond.add_(block.left_out)
        moments.update(block)
        negative.add_(torch.bincount(block.negative[0], minlength=len(negative)))
        sums.update(block, torch.from_numpy(np.asarray(rows.source)[block.row.numpy(), 1:].astype(np.int64)), left_out)
        for observe in observers:
            observe(block)

    in_step(peers, mine, add)
    moments.add_over(peers)
    sums.add_over(peers)
    for total in (negative, beyond):
        peers.add_(total)
    if not sums.tokens.any():
        raise nothing_counts(len(select), TokenFilter(skip_positions, left_out, limit))
    counts, scored = moments.counts + negative, int(sums.tokens.sum())
    bound = max(ULTRALOW, 2 / scored)
    everything = list(range(len(rows.sources)))
    edges, bars = density_histogram(counts, scored)
    by_source = []
    for index, name in enumerate(rows.sources):
        if sums.tokens[index] and (sums.predicted[index] or not predicts_next(model)):
            own = sums.figures([index])
            own = {k: v for k, v in own.items() if k in SourceScore.__dataclass_fields__}
            by_source.append(SourceScore(source=name, tokens=int(sums.tokens[index]), **own))
    return Evaluation(
        model=model.name,
        hook_name=hook_name,
        kind=str(sae.cfg.kind),
        d_in=sae.cfg.d_in,
        d_sae=sae.cfg.d_sae,
        tokens=scored,
        contexts=len(select),
        skip_positions=skip_positions,
        skip_tokens=left_out,
        dead=int((counts == 0).sum()),
        ultralow=int(((counts > 0) & (counts / scored < bound)).sum()),
        ultralow_bound=bound,
        above_1_percent=int((counts / scored > 0.01).sum()),
        density_edges=edges,
        density_counts=bars,
        by_source=tuple(by_source),
        labels=moments.best(group_sources(rows.sources, labels)),
        config=asdict(sae.cfg),
        metadata=dict(getattr(sae, "metadata", {})),
        places=(),
        unit="text" if of_texts(model) else "token",
        skip_norm=None if limit is None else limit.to_json() | {"left_out": int(beyond)},
        **sums.figures(everything),
        **({} if mean is None else sums.comparisons()),
    )
