"""How a step was computed, in words: what is unusual in a row of metrics, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from monosem.ops.step_stats import FALLBACKS, INT16

GUIDE = "docs/howto/slow_step.md"
FEW = 0.01  # share of tokens below which nothing is sentences

_ADVICE = {
    "overflow": "Scale the activations down, or look for Inf and NaN in the model",
    "short_rows": "Scale the activations up, or start again with another initialisation",
    "short_tokens": "Leave padding out of the activations (--skip-tokens), or scale them up",
    "large_k": "Use a smaller k",
}


@dataclass(frozen=True)
class Notice:
    """Something unusual.

    Attributes:
        kind: a warning is given once per kind.
        short: for the progress bar.
        sentence: what happened, what it costs and what to do.
    """

    kind: str
    short: str
    sentence: str


def unusual(row: Mapping[str, float]) -> list[Notice]:
    """What is unusual in a row of metrics of one autoencoder: a product that fell to fp32, many tokens computed twice,
    a sparse step that turned dense."""
    notices = []
    to_fp32 = {reason: row.get(f"fallback_{reason}", 0.0) for reason in _ADVICE}
    if (share := sum(to_fp32.values())) > FEW:
        reason = max(to_fp32, key=lambda r: to_fp32[r])
        notices.append(
            Notice(
                "fp32",
                f"{share:.0%} in fp32",
                f"product: fp32 for {share:.0%} of the tokens, several times slower than the product of this machine, "
                f"because {FALLBACKS[reason]}. {_ADVICE[reason]}; see {GUIDE}.",
            )
        )
    if (share := row.get("rows_redone", 0.0)) > FEW:
        notices.append(
            Notice(
                "redone",
                f"{share:.0%} redone",
                f"rows_redone: {share:.1%} of the tokens were encoded twice, because too many features lie within the "
                "error bound of the k-th (ties, or features that are nearly the same). Compare with a more precise "
                f"product, MONOSEM_PRODUCT=int16 or fp32; see {GUIDE}.",
            )
        )
    if (share := row.get("turned_dense", 0.0)) > 0:
        notices.append(
            Notice(
                "dense",
                f"{row.get('dense', share):.0%} dense",
                "dense: more than a tenth of the features fire again, so that steps use products with all of them, "
                "which are slower. Raise the sparsity coefficient (l1_coefficient) or lengthen its warm-up; "
                f"see {GUIDE}.",
            )
        )
    return notices


def words(row: Mapping[str, float]) -> list[str]:
    """The statistics in a row of metrics of one autoencoder, as sentences."""
    sentences = []
    products = {name.removeprefix("product_"): n for name, n in row.items() if name.startswith("product_") and n}
    if products:
        shares = ", ".join(f"{p} {n:.1%}" for p, n in sorted(products.items(), key=lambda pair: -pair[1]))
        sentences.append(f"encoder product: {shares} of the tokens")
    elif row.get("dense", 0.0) < 1:
        sentences.append(
            "encoder product: not counted (the definition in plain PyTorch: float64, or no compiled kernels)"
        )
    for reason, why in FALLBACKS.items():
        if share := row.get(f"fallback_{reason}", 0.0):
            slower = "int16" if reason in INT16 else "fp32"
            sentences.append(f"fell back to {slower}: {share:.1%} of the tokens, because {why}")
    if "candidates" in row:
        sentences.append(
            f"candidates per token: {row['candidates']:,.1f}, of which {row['rescored']:,.1f} rescored in fp32"
        )
    if "rows_redone" in row:
        sentences.append(f"tokens encoded twice: {row['rows_redone']:.2%}")
    if "dense" in row:
        sentences.append(f"dense products in {row['dense']:.0%} of the steps, sparse rows in the others")
    for how, what in (("dense", "products with all dead features"), ("gathered", "gathered rows of dead features")):
        if share := row.get(f"aux_{how}", 0.0):
            sentences.append(f"AuxK: {what}, in {share:.0%} of the steps")
    if "capacity_used" in row:
        sentences.append(f"capacity used: {row['capacity_used']:.0%} of what is reserved on the GPU")
    if row.get("tokens_redone"):
        sentences.append(f"tokens of batches encoded twice for lack of space: {row['tokens_redone']:,.0f} per step")
    return sentences
