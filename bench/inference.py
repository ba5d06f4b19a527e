"""Encode and decode of a wide JumpReLU dictionary against the dense formula, on this processor.

    python bench/inference.py --out bench/results/inference.json

A planted dictionary of the shape of Gemma Scope's at Gemma 2 2B (65,536 features of width 2,304; θ where 70 features
are active on average): random unit rows, inputs that are sums of 70 of them. For 1, 32, 256 and 2,048 tokens: the
dense formula ``h·(h > θ)`` and a product with the decoder, by PyTorch in fp32; `encode` and `decode`; and `encode`
after `sae.prepare()`. The codes are checked against the dense ones.

    python bench/inference.py --predict

prints the least time of both ways on an H100, from bytes and products: a prediction, no GPU is used or needed. A run
writes it to its JSON too, with the measured L0.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import stages
import torch
from torch import Tensor

import monosem as ms

TOKENS = (1, 32, 256, 2048)
PREDICTED_TOKENS = (1, 32, 2048)
# An H100 SXM by its data sheet, without structured sparsity: bytes/s of its memory, and FLOP/s (or integer operations).
BANDWIDTH, RATES = 3.35e12, {"fp32": 67e12, "tf32": 495e12, "bf16": 989e12, "int8": 1979e12}
CANDIDATES = 1.3  # features rescored in fp32 per active one
TILE = 128  # tokens that a tile of the product has at least


def planted(d_in: int, d_sae: int, l0: int, tokens: int) -> tuple[ms.JumpReLUSAE, Tensor]:
    """The dictionary, with θ such that ``l0`` features are active on average, and inputs [tokens, d_in]."""
    g = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=g), dim=1)
    chosen = torch.randint(d_sae, (tokens, l0), generator=g)
    weights = 0.5 + torch.rand(tokens, l0, generator=g)
    x = torch.nn.functional.embedding_bag(chosen, rows, per_sample_weights=weights, mode="sum")
    some = x[:128]
    largest = (some @ rows.T).flatten().topk(len(some) * l0 + 1).values
    sae = ms.JumpReLUSAE(d_in, d_sae, initial_threshold=float(largest[-2:].mean()), seed=0).eval()
    with torch.no_grad():
        sae.W_enc_rows.copy_(rows)
        sae.W_dec.copy_(rows)
    return sae, x


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:  # the first warms up
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: round(statistics.median(each), 2) for name, each in times.items()}


def check(sae: ms.JumpReLUSAE, x: Tensor, dense: Tensor) -> None:
    """Raise unless ``encode`` gives the dense code; entries within rounding of θ may be on either side."""
    code = sae.encode(x).to_dense()
    other = (code - dense).abs() > 1e-4
    near = (torch.maximum(code, dense) - sae.threshold).abs() < 1e-4
    if (other & ~near).any():
        raise SystemExit("encode differs from the dense formula")


@torch.no_grad()
def row(sae: ms.JumpReLUSAE, prepared: ms.JumpReLUSAE, x: Tensor, rounds: int) -> dict[str, object]:
    def dense_encode() -> Tensor:
        h = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        return h * (h > sae.threshold)

    dense, code = dense_encode(), sae.encode(x)
    check(prepared, x, dense)
    calls = {
        "dense_encode": dense_encode,
        "encode": lambda: sae.encode(x),
        "prepared_encode": lambda: prepared.encode(x),
        "dense_decode": lambda: dense @ sae.W_dec + sae.b_dec,
        "decode": lambda: sae.decode(code),
    }
    ms_ = interleaved(calls, rounds)
    both = (ms_["dense_encode"] + ms_["dense_decode"]) / (ms_["prepared_encode"] + ms_["decode"])
    return {
        "tokens": len(x),
        "l0": round(float(code.l0()), 1),
        "ms": ms_,
        "encode_ratio": round(ms_["dense_encode"] / ms_["prepared_encode"], 2),
        "decode_ratio": round(ms_["dense_decode"] / ms_["decode"], 1),
        "both_ratio": round(both, 2),
    }


def predicted(d_in: int, d_sae: int, tokens: int, l0: float) -> dict[str, float]:
    """Gigabytes and least milliseconds on an H100, of `encode` and `decode` together, after ``prepare``.

    Dense: both matrices in fp32; the array of tokens × features written once, its threshold applied on the way, and
    read once. Ours: the encoder's rows in bf16 or int8, then fp32 rows of candidates and of active features, each read
    anew for every token. A product takes the longer of its operations and its bytes; gathered rows take their bytes.
    Launches, and the wait of ``encode`` for the number of entries, are in neither.
    """
    weights, products, row = d_in * d_sae, 2 * d_in * d_sae, 4 * d_in

    def ms_of(n: int, precision: str, moved: float) -> float:
        return 1e3 * max(n * products / RATES[precision], moved / BANDWIDTH)

    one_product = 4 * weights + 4 * tokens * d_sae
    gathered = (CANDIDATES + 1) * tokens * l0 * row
    result = {"dense_gb": 2 * one_product / 1e9}
    for precision in ("fp32", "tf32"):
        result[f"dense_{precision}_ms"] = 2 * ms_of(tokens, precision, one_product)
    for precision, size in (("bf16", 2), ("int8", 1)):
        result[f"{precision}_gb"] = (size * weights + gathered) / 1e9
        product = ms_of(max(tokens, TILE), precision, size * weights)
        result[f"{precision}_ms"] = product + 1e3 * gathered / BANDWIDTH
    return {"tokens": tokens, **{name: round(number, 3) for name, number in result.items()}}


def table(rows: list[dict[str, float]]) -> str:
    """The predictions in Markdown; ratios are to the dense formula in TF32, the faster one."""
    lines = ["| tokens | dense, GB | fp32, ms | TF32, ms | bf16 rows, GB | ms | int8 rows, GB | ms |", "|" + "---|" * 8]
    for r in rows:
        dense = [f"{r['dense_gb']:.2f}", f"{r['dense_fp32_ms']:.2f}", f"{r['dense_tf32_ms']:.2f}"]
        ours = [
            f"{r[f'{p}_gb']:.2f} | {r[f'{p}_ms']:.2f}: {r['dense_tf32_ms'] / r[f'{p}_ms']:.1f} ×"
            for p in ("bf16", "int8")
        ]
        lines.append(f"| {' | '.join([format(int(r['tokens']), ','), *dense, *ours])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--l0", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--predict", action="store_true", help="only the least times on an H100, by arithmetic")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    if args.predict:
        print(table([predicted(args.d_in, args.d_sae, n, args.l0) for n in PREDICTED_TOKENS]))
        return 0
    sae, x = planted(args.d_in, args.d_sae, args.l0, max(TOKENS))
    prepared = copy.deepcopy(sae).prepare()
    result: dict[str, object] = {"what": "inference of a JumpReLU dictionary", "d_in": args.d_in, "d_sae": args.d_sae}
    rows = []
    for n in TOKENS:
        rows.append(row(sae, prepared, x[:n], 3 if n > 1000 else args.rounds))
        print(rows[-1], flush=True)
    prediction = [predicted(args.d_in, args.d_sae, n, float(rows[TOKENS.index(n)]["l0"])) for n in PREDICTED_TOKENS]
    result |= {"rows": rows, "predicted": {"card": "H100 SXM, data sheet; not measured", "rows": prediction}}
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
