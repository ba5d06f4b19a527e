"""Encode and decode of a wide JumpReLU dictionary against the dense formula, on this processor.

    python bench/inference.py --out bench/results/inference.json

A planted dictionary of the shape of Gemma Scope's at Gemma 2 2B (65,536 features of width 2,304; θ where 70 features
are active on average): random unit rows, inputs that are sums of 70 of them. For 1, 32, 256 and 2,048 tokens: the
dense formula ``h·(h > θ)`` and a product with the decoder, by PyTorch in fp32; `encode` and `decode`; and `encode`
after `sae.prepare()`. The codes are checked against the dense ones. With ``--gpu-bandwidth`` (GB/s), also the least
time of a card for the bytes that each way must read, a prediction: no GPU is used.
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


def predicted(sae: ms.JumpReLUSAE, tokens: int, l0: float, bandwidth: float) -> dict[str, float]:
    """Least milliseconds by the bytes that are read: all rows in fp32 twice; rows in int8 and the active ones."""
    weights, rows = sae.W_dec.numel(), min(sae.cfg.d_sae, tokens * l0) * sae.cfg.d_in * 4
    dense, ours = 8 * weights / bandwidth / 1e6, (weights + 2 * rows) / bandwidth / 1e6
    decode = 4 * weights / bandwidth / 1e6, rows / bandwidth / 1e6
    return {
        "dense_ms": round(dense, 3),
        "ms": round(ours, 3),
        "ratio": round(dense / ours, 1),
        "dense_decode_ms": round(decode[0], 3),
        "decode_ms": round(decode[1], 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--l0", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu-bandwidth", type=float, default=1008, help="of the card predicted (RTX 4090: 1008)")
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    sae, x = planted(args.d_in, args.d_sae, args.l0, max(TOKENS))
    prepared = copy.deepcopy(sae).prepare()
    result: dict[str, object] = {"what": "inference of a JumpReLU dictionary", "d_in": args.d_in, "d_sae": args.d_sae}
    rows = []
    for n in TOKENS:
        rows.append(row(sae, prepared, x[:n], 3 if n > 1000 else args.rounds))
        print(rows[-1], flush=True)
    few = rows[1]
    prediction = predicted(sae, int(few["tokens"]), float(few["l0"]), args.gpu_bandwidth)
    print("predicted of a card, 32 tokens:", prediction)
    result |= {"rows": rows, "predicted": {"bandwidth_gb_s": args.gpu_bandwidth, "tokens": 32, **prediction}}
    return stages.conclude(result, args.out)


if __name__ == "__main__":
    sys.exit(main())
