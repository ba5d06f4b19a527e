"""Rows in 8 bits with dither: the kernel is the definition, and the definition's errors keep to the bound's proof."""

import math

import pytest
import torch

from monosem.ops import gpu
from monosem.ops.selection import dithered
from monosem.ops.selection.dithered import FEATURE, TOKEN

CPU = torch.device("cpu")
C = dithered.MARGIN * math.sqrt(12) / 1.01


def rows_of(kind: str, n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Rows that are hard to round: few large entries, equal, sparse, of one sign, of many sizes."""
    g = torch.Generator().manual_seed(seed)
    t = torch.randn(n, d, generator=g, dtype=torch.float64, device="cpu")
    if kind == "large entries":
        t[:, :: max(1, d // 2)] *= 300
    elif kind == "equal":
        t = torch.ones_like(t)
    elif kind == "sparse":
        t *= torch.rand(n, d, generator=g, device="cpu") < 2 / d
        t[:, 0] = 1
    elif kind == "one sign":
        t = t.abs()
    elif kind == "sizes":
        t *= 10.0 ** torch.randint(-12, 4, (n, d), generator=g, device="cpu")
    return t


KINDS = ["normal", "large entries", "equal", "sparse", "one sign", "sizes"]


@pytest.mark.parametrize("d", [1, 7, 128, 200, 768, 2304])
def test_rotation_keeps_products(d):
    width = dithered.padded(d)
    a, b = (torch.nn.functional.pad(rows_of(kind, 5, d), (0, width - d)) for kind in ("normal", "large entries"))
    left, right = dithered.rotate(a), dithered.rotate(b)
    torch.testing.assert_close(left @ right.T, a @ b.T, rtol=1e-12, atol=1e-9)
    spread = dithered.rotate(torch.eye(width, dtype=torch.float64, device="cpu")[:1])
    assert spread.abs().amax() == 2.0 ** (-0.5 * dithered.rotation_bits(width))  # of one large entry nothing stands out


def test_the_dither_is_uniform_and_each_side_has_its_own():
    token, feature = (dithered.noise(8192, side, CPU) for side in (TOKEN, FEATURE))
    for u in (token, feature):
        assert u.amin() >= -0.5 and u.amax() < 0.5 and u.unique().numel() > 8180
        assert abs(u.mean()) < 4 / math.sqrt(12 * 8192) and abs(u.square().mean() * 12 - 1) < 0.05
        assert abs((u[1:] * u[:-1]).mean()) * 12 < 4 / math.sqrt(8192)
    assert abs((token * feature).mean()) * 12 < 4 / math.sqrt(8192)


def errors(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of all pairs: how far x·w is above the product, and the margin."""
    value, margin = dithered.product(dithered.quantize(x, TOKEN), dithered.quantize(w, FEATURE))
    return x @ w.T - value, margin


@pytest.mark.parametrize("d", [1, 5, 128, 512, 8192])
@pytest.mark.parametrize("kind", KINDS)
def test_no_pair_exceeds_the_error_bound(kind, d):
    x, w = rows_of(kind, 64, d), torch.cat([rows_of(kind, 150, d, 1), rows_of("normal", 150, d, 2)])
    w[0], w[1], w[2] = x[0], -x[1], 0  # aligned, opposite, nothing
    error, margin = errors(x, w)
    assert (error.abs() <= margin).all(), f"{(error.abs() / margin.clamp(min=1e-300)).amax():.3g}"
    size, length = w[3:].norm(dim=1), x.norm(dim=1)[:, None]
    assert (margin[:, 3:] <= C * 1.1 * size * length / 126.5 + 2e-14 * (size + length)).all()  # and is worth having


@pytest.mark.parametrize("kind", KINDS)
def test_adversarial_rows_exceed_the_bound_no_more_often_than_proved(kind, monkeypatch):
    """One pair of rows, 1,000 draws of the dither: P(error > c·σ) ≤ exp(−c²/2), and the errors are centred."""
    x, w = rows_of(kind, 1, 200), rows_of(kind, 1, 200, 3)
    share = []
    for seed in range(1000):
        monkeypatch.setattr(dithered, "_SEEDS", (seed * 7919 + 1, seed * 104729 + 2))
        error, margin = errors(x, w)
        share.append(float(error) / float(margin) * C * 1.01)
    share = torch.tensor(share, dtype=torch.float64, device="cpu")
    assert abs(share.mean()) < 5 / math.sqrt(len(share))
    for c in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        proved = math.exp(-c * c / 2)
        room = 5 * math.sqrt(proved * (1 - proved) / len(share))
        assert (share > c).double().mean() <= proved + room and (share < -c).double().mean() <= proved + room


def test_many_pairs():
    """33 million pairs of a wide encoder's size: the largest error is about half of the margin."""
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randn(n, 512, generator=g, device="cpu") for n in (2048, 16384))
    (q, left), (p, right) = dithered.quantize(x, TOKEN), dithered.quantize(w, FEATURE)
    length, error, scale, offset = left[:, :, None]
    w_length, w_error, w_scale, w_offset = right[:, None, :]
    value = scale * (w_scale * (q.float() @ p.float().T - offset) - w_offset)  # sums below 2²⁴ are exact
    margin = ((w_length * error).square() + (length * w_error).square()).sqrt()
    most = ((x @ w.T - value).abs() / margin).amax()
    assert 0.4 < most < 0.75
    # Of the spread of a pre-activation, as the documentation says.
    assert 0.08 < (margin / math.sqrt(512)).mean() < 0.11


def test_rows_with_nan_or_infinity_are_marked():
    t = torch.randn(4, 9, device="cpu")
    t[1, 3], t[2, 0] = torch.nan, -torch.inf
    for side in (TOKEN, FEATURE):
        level, known = dithered.quantize(t, side)
        assert known[2].isnan().tolist() == [False, True, True, False] and not level[1:3].any()


@pytest.mark.usefixtures("device", "triton_only")
@pytest.mark.skipif(bool(gpu.available("triton")), reason=gpu.available("triton") or " ")
@pytest.mark.parametrize("side", [TOKEN, FEATURE])
@pytest.mark.parametrize("shape", [(3, 1), (5, 130), (300, 64), (2, 768), (1, 2304)])
def test_the_kernel_is_the_definition(shape, side):
    from ops.cases import here

    from monosem.ops.selection.triton_operand import operand_of

    t = here(rows_of("large entries", *shape).float())
    t[-1] = 0
    t[0, -1] = 1e-3
    got = operand_of(t, torch.int8, side)
    level, known = dithered.quantize(t.double(), side)
    off = (got.rows.int() - level.int()).abs()
    assert off.amax() <= 1 and off.float().mean() < 2e-3
    for mine, wanted in zip((got.length, got.error, got.scale), known, strict=False):
        torch.testing.assert_close(mine.double(), wanted, rtol=2e-6, atol=0)
    mine, other = (dithered.noise(level.shape[1], s, level.device) for s in (side, 1 - side))
    kept = got.rows.double() if side == FEATURE else got.rows.double() - mine
    wanted = (kept * other).sum(1) * (known[2] if side == FEATURE else 1)
    torch.testing.assert_close(got.offset.double(), wanted, rtol=1e-5, atol=1e-4 * float(known[2].amax() + 1))
