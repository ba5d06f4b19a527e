"""Finite-state automata: features that raise tokens which fire the next feature, counted on text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from monosem.analysis.evidence import token_html
from monosem.analysis.evidence.automata.graph import Path, choose, networkx, paths
from monosem.analysis.evidence.automata.transitions import Edges, Raised, Transitions, edges, raised_tokens
from monosem.analysis.index.example import Example
from monosem.analysis.index.reservoir import Reservoir
from monosem.analysis.inputs import Subject
from monosem.analysis.logits import used_vocabulary
from monosem.analysis.scan import Rows, blocks, spread
from monosem.analysis.sources import SourceMoments, sources_read
from monosem.analysis.windows import windows
from monosem.data.protocols import LanguageModel
from monosem.nn.dictionary import Dictionary
from monosem.ops.precision import as_given

_CHECKED = 2000  # edges whose logit weights are compared


@dataclass(frozen=True)
class AutomataResult:
    """Result of :func:`measure`.

    Attributes:
        tokens: scored tokens. transitions: edges kept. features: features that have one.
        lost: no count of a pair of features is too small by more than this (0 unless memory was short).
        raise_lift: over features that raise tokens and fire, the median of P(a token it raises comes next | it fires) /
            P(such a token comes next): above 1 if logit weights say what the text does.
        raise_lift_above_1: share of those features with more than 1.
        alignment: median over the strongest edges i → j of the logit weight of i on the tokens that fire j (the mean
            over j's activation) minus its mean over all text, in nats; ``alignment_shuffled``: the same with j drawn
            anew among the targets; ``aligned``, ``aligned_shuffled``: shares above 0.
        loops, cycles, chains: each ``{"features", "strength", "edges"}``, strongest first.
        nodes: {feature: ``tokens`` (that carry its activation), ``raises``, ``source``, ``source_share``, ``density``,
            ``example``} of those shown.
    """

    model: str
    hook_name: str
    kind: str
    d_sae: int
    tokens: int
    transitions: int
    features: int
    lost: float
    raise_lift: float | None
    raise_lift_above_1: float | None
    alignment: float | None
    alignment_shuffled: float | None
    aligned: float | None
    aligned_shuffled: float | None
    all_loops: int
    all_cycles: int
    loops: tuple[dict[str, Any], ...]
    cycles: tuple[dict[str, Any], ...]
    chains: tuple[dict[str, Any], ...]
    nodes: dict[str, dict[str, Any]]
    sources: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def table(self) -> str:
        """The strongest of each kind as text for a terminal."""
        out = [
            f"{self.kind}, {self.d_sae:,} features on {self.hook_name} of {self.model}; {self.tokens:,} tokens",
            f"{self.transitions:,} transitions between {self.features:,} features; {self.all_loops:,} features lead to "
            f"themselves, {self.all_cycles:,} cycles",
        ]
        if self.raise_lift is not None:
            out.append(
                f"a token that a firing feature raises comes next {self.raise_lift:.1f} times as often as otherwise "
                f"(median; more often for {self.raise_lift_above_1:.0%} of the features)"
            )
        if self.alignment is not None:
            out.append(
                f"logit weight of the first feature on the second's tokens: {self.alignment:+.2f} nats above the mean "
                f"(median; {self.alignment_shuffled:+.2f} with the second drawn at random)"
            )
        for name, automata in (("loops", self.loops), ("cycles", self.cycles), ("chains", self.chains)):
            out += ["", f"{name} (strength: how much likelier than chance a step is taken)"]
            for path in automata:
                states = [
                    f"{f} [{self.nodes[str(f)]['source']}: {' '.join(self.nodes[str(f)]['tokens'][:4])}]"
                    for f in path["features"]
                ]
                out.append(
                    f"  {path['strength']:.2f}  " + " -> ".join([*states, *states[: 1 if path["closed"] else 0]])
                )
            if not automata:
                out.append("  none")
        return "\n".join(out)


@torch.no_grad()
def measure(
    subject: Subject,
    rows: Rows,
    *,
    tokens: int | None = None,
    contexts: int = 16,
    skip_positions: int = 1,
    support: int = 20,
    lift: float = 2.0,
    strength: float = 0.02,
    show: int = 12,
    pairs: int = 24_000_000,
    seed: int = 0,
    progress: bool = True,
) -> AutomataResult:
    """Find the automata of a dictionary (*Towards Monosemanticity*, "Finite State Automata").

    The paper reads them off logit weights and top activations; here they are counted. For each feature the tokens that
    it raises (logit weights that stand out); for each step of the text at which it fires and such a token comes next,
    the features that fire on that token. One pass; pairs of features are held sparsely.

    Args:
        tokens: read about so many, in evenly spaced rows (default: all).
        support: least number of steps behind a transition. lift, strength: see
            :func:`monosem.analysis.evidence.automata.transitions.edges`.
        show: how many loops, cycles and chains to describe.
        pairs: most pairs of features held in memory (16 bytes each, twice); past that the rarest are dropped.

    Raises:
        ImportError: networkx is not there.
        ValueError: the dictionary does not fit the hook, or there is nothing to read.
    """
    networkx()
    sae, model, hook_name = subject.sae, subject.model, subject.hook_name
    select = spread(rows, tokens)
    used = used_vocabulary(np.asarray(rows.tokens)[select], model.d_vocab)
    raised = raised_tokens(sae, model, hook_name, used)
    counts = Transitions(sae.cfg.d_sae, raised, model.bos_id, pairs)
    moments = SourceMoments(sae.cfg.d_sae, rows.sources)
    strongest = Reservoir(sae.cfg.d_sae, 1, "value")
    for block in blocks(
        sae,
        model,
        hook_name,
        rows,
        select=select,
        contexts=contexts,
        skip_positions=skip_positions,
        progress="counting transitions" if progress else None,
    ):
        counts.update(block)
        moments.update(block)
        strongest.update(block.features, block.values, block.places)

    kept = edges(counts, support=support, lift=lift, strength=strength)
    kind = moments.active.argmax(1).tolist()
    ranked = paths(kept)
    chosen = [choose(some, show, lambda p: rows.sources[kind[p.features[0]]]) for some in ranked]
    shown = sorted({f for some in chosen for p in some for f in p.features})
    length = rows.tokens.shape[1]
    places = {f: int(strongest.places[f, 0]) for f in shown}
    examples = [(f, Example(places[f] // length, places[f] % length, float(strongest.values[f, 0]))) for f in shown]
    texts = windows(sae, model, hook_name, rows, examples, skip_positions=skip_positions) if examples else []
    nodes = {
        str(f): _node(f, counts, raised, moments, model) | {"example": token_html.as_dict(text)}
        for f, text in zip(shown, texts, strict=True)
    }
    scored = int(moments.tokens.sum())
    raise_lift, raise_lift_above_1 = _raising(counts, raised)
    loops, cycles, chains = (tuple(_path(p, kept, counts, raised, model) for p in some) for some in chosen)
    return AutomataResult(
        model=model.name,
        hook_name=hook_name,
        kind=str(sae.cfg.kind),
        d_sae=sae.cfg.d_sae,
        tokens=scored,
        transitions=len(kept),
        features=len(np.union1d(kept.source, kept.target)),
        lost=max(counts.pairs.lost, counts.together.lost),
        raise_lift=raise_lift,
        raise_lift_above_1=raise_lift_above_1,
        **_alignment(kept, counts, sae, model, hook_name, seed),
        all_loops=len(ranked[0]),
        all_cycles=len(ranked[1]),
        loops=loops,
        cycles=cycles,
        chains=chains,
        nodes=nodes,
        sources=tuple(sources_read(rows)),
    )


def _node(f: int, counts: Transitions, raised: Raised, moments: SourceMoments, model: LanguageModel) -> dict[str, Any]:
    keys, sums = counts.firing.row(f * model.d_vocab, (f + 1) * model.d_vocab)
    top = np.argsort(-sums, kind="stable")[:6]
    source = int(moments.active[f].argmax())
    return {
        "tokens": _words(keys[top] % model.d_vocab, model),
        "raises": _words(raised.of(f)[0][:8], model),
        "source": moments.sources[source],
        "source_share": float(moments.active[f, source] / moments.active[f].sum().clamp_min(1)),
        "density": float(moments.counts[f] / moments.tokens.sum().clamp_min(1)),
    }


def _words(tokens: Sequence[int] | np.ndarray, model: LanguageModel) -> list[str]:
    return [token_html.token(model.token_str(int(t))) for t in tokens]


def _path(path: Path, transitions: Edges, counts: Transitions, raised: Raised, model: LanguageModel) -> dict[str, Any]:
    steps = []
    for n in path.edges:
        i, j = int(transitions.source[n]), int(transitions.target[n])
        mine = raised.of(i)[0]
        carried = counts.firing.get(j * model.d_vocab + mine)  # of the tokens that i raises, those on which j fires
        top = np.argsort(-carried, kind="stable")[:4]
        steps.append(
            {
                "from": i,
                "to": j,
                "support": int(transitions.support[n]),
                "probability": float(transitions.probability[n]),
                "base": float(transitions.base[n]),
                "raise_share": float(transitions.raise_share[n]),
                "strength": float(transitions.strength[n]),
                "tokens": _words(mine[top[carried[top] > 0]], model),
            }
        )
    return {"features": list(path.features), "strength": path.strength, "closed": path.closed, "edges": steps}


def _raising(counts: Transitions, raised: Raised) -> tuple[float | None, float | None]:
    """(median, share above 1) of P(a raised token next | active) / P(a raised token next)."""
    follows = counts.follows / max(counts.steps, 1)
    base = np.bincount(
        raised.keys // raised.d_vocab, weights=follows[raised.keys % raised.d_vocab], minlength=counts.d_sae
    )
    reliable = (counts.active >= 100) & (base * counts.active >= 1)  # else the ratio is noise
    if not reliable.any():
        return None, None
    ratio = counts.hits[reliable] / counts.active[reliable] / base[reliable]
    return float(np.median(ratio)), float((ratio > 1).mean())


@as_given
def _alignment(
    transitions: Edges, counts: Transitions, sae: Dictionary, model: LanguageModel, hook_name: str, seed: int
) -> dict[str, float | None]:
    """Do logit weights say the same? Σ_t q_j(t)·w_i(t) − Σ_t p(t)·w_i(t), q_j(t) the share of j's activation on t."""
    if not len(transitions):
        return dict.fromkeys(("alignment", "alignment_shuffled", "aligned", "aligned_shuffled"))
    source, target = transitions.source[:_CHECKED], transitions.target[:_CHECKED]
    drawn = np.random.default_rng(seed).permutation(target)
    directions = model.logit_directions(hook_name).float().cpu()
    follows = torch.from_numpy(counts.follows / max(counts.steps, 1)).float()
    centre = directions @ follows
    means = {}
    for j in np.unique(target).tolist():  # Σ_t q_j(t)·(column t of the path to the logits), centred
        keys, sums = counts.firing.row(j * model.d_vocab, (j + 1) * model.d_vocab)
        weights = torch.from_numpy(sums / max(sums.sum(), 1e-300)).float()
        means[j] = directions[:, torch.from_numpy(keys % model.d_vocab)] @ weights - centre
    decoder = sae.W_dec.detach().float().cpu()
    rows = decoder[torch.from_numpy(source)]
    ours, shuffled = ((rows * torch.stack([means[j] for j in to.tolist()])).sum(1) for to in (target, drawn))
    return {
        "alignment": float(ours.median()),
        "alignment_shuffled": float(shuffled.median()),
        "aligned": float((ours > 0).float().mean()),
        "aligned_shuffled": float((shuffled > 0).float().mean()),
    }
