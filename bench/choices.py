"""Choices by int8 products, with dither and by the bound that holds for certain: are any of them wrong?

    python bench/choices.py --out bench/results/choices.json

A token is wrong if a feature that was left out is above one that was chosen, in float64, by more than a score's
rounding in fp32. Random rows (10⁹ pairs of a token and a feature), then rows that are hard to round: few large
entries, one alone, equal, sparse, of one sign, of many sizes, features that are nearly equal, and tokens along
features (10⁴ tokens). Beside them how many rows per token each bound left to be computed in fp32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import stages
import torch
from torch import Tensor

from monosem import ops
from monosem.ops import backend, step_stats

SHAPES = ((512, 16_384, 32), (768, 24_576, 32), (64, 8_192, 16), (100, 4_096, 8))  # D, F, K
TOKENS, PAIRS, HARD = 2048, 10**9, 10_000


def normal(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g)


def sparse(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, d, generator=g) * (torch.rand(n, d, generator=g) < 3 / d)


def alone(n: int, d: int, g: torch.Generator) -> Tensor:
    return torch.nn.functional.one_hot(torch.randint(d, (n,), generator=g), d).float() * normal(n, 1, g)


def outliers(n: int, d: int, g: torch.Generator) -> Tensor:
    return normal(n, d, g) * torch.where(torch.arange(d) % max(1, d // 3) == 0, 300.0, 1.0)


def sizes(n: int, d: int, g: torch.Generator) -> Tensor:
    return normal(n, d, g) * 10.0 ** torch.randint(-6, 4, (n, d), generator=g)


def near(n: int, d: int, g: torch.Generator) -> Tensor:
    """Copies of a few rows, that differ by a hundred-thousandth."""
    return normal(16, d, g)[torch.randint(16, (n,), generator=g)] * (1 + 1e-5 * normal(n, d, g))


ROWS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "normal": normal,
    "of one sign": lambda n, d, g: normal(n, d, g).abs(),
    "sparse": sparse,
    "one alone": alone,
    "outliers": outliers,
    "of many sizes": sizes,
    "equal entries": lambda n, d, g: normal(n, 1, g).expand(n, d).contiguous(),
    "nearly alike": near,
}


def choose(x: Tensor, w: Tensor, b: Tensor, k: int, certain: bool) -> tuple[Tensor, float]:
    """Indices of the k largest by an int8 product, and how many rows per token were computed in fp32."""
    backend.certain = lambda: certain
    backend.cpu_product = lambda: "int8"
    with step_stats.recording() as stats:
        code = ops.topk_encode(x, w, b, k)
    return code.indices.long(), float(stats.encoder.rescored) / len(x)


def compare(rows: str, d: int, f: int, k: int, tokens: int, seed: int) -> dict:
    g = torch.Generator().manual_seed(seed)
    w = torch.nn.functional.normalize(ROWS[rows if rows == "nearly alike" else "normal"](f, d, g), dim=1)
    w *= 0.5 + torch.rand(f, 1, generator=g)
    x = ROWS[rows](tokens, d, g)
    x[::5] += w[torch.randint(f, (len(x[::5]),), generator=g)] * x[::5].norm(dim=1, keepdim=True)  # aligned with one
    b = 0.01 * torch.randn(f, generator=g)
    exact = x.double() @ w.double().T + b.double()
    rounding = 2 * (d / 8 + 48) * 2.0**-24 * x.norm(dim=1) * w.norm(dim=1).amax() + 2.0**-21 * b.abs().amax()
    result = {"rows": rows, "d": d, "f": f, "k": k, "tokens": tokens}
    for name, certain in (("dithered", False), ("certain", True)):
        indices, rescored = choose(x, w, b, k, certain)
        least = exact.gather(1, indices).amin(1)
        most = exact.scatter(1, indices, -torch.inf).amax(1)
        result |= {f"wrong_{name}": int((most > least + rounding).sum()), f"rescored_{name}": round(rescored, 1)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", metavar="FILE", required=True, help="JSON; written at the end")
    parser.add_argument("--pairs", type=float, default=PAIRS, help="of random rows (default: 10⁹)")
    args = parser.parse_args()
    began, results, seed, pairs = time.perf_counter(), [], 0, 0
    while pairs < args.pairs:
        d, f, k = SHAPES[seed % len(SHAPES)]
        results.append(compare("normal", d, f, k, TOKENS, seed) | {"part": "random"})
        pairs, seed = pairs + TOKENS * f, seed + 1
        print(f"{pairs:.3g} pairs: {results[-1]}", flush=True)
    hard = 0
    while hard < HARD:
        for rows in ROWS:
            d, f, k = SHAPES[seed // len(ROWS) % len(SHAPES)]
            results.append(compare(rows, d, f, k, 256, seed) | {"part": "hard"})
            hard, seed = hard + 256, seed + 1
            print(f"{hard} hard tokens: {results[-1]}", flush=True)
    wrong = {f"wrong_{name}": sum(r[f"wrong_{name}"] for r in results) for name in ("dithered", "certain")}
    about = {"pairs": pairs, "hard_tokens": hard, **wrong}
    stages.conclude(about | {"seconds": round(time.perf_counter() - began, 1), "runs": results}, Path(args.out))
    print(f"{wrong}: tokens, of {pairs:.3g} pairs and {hard} hard tokens")


if __name__ == "__main__":
    main()
