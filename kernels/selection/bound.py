"""What may be concluded from an approximate product about the one in fp32: an upper bound of each pre-activation.

bf16, for certain. x is rounded to x̃ = x − δx and w to w̃ = w − δw. By Cauchy-Schwarz

    |x·w − x̃·w̃| ≤ ‖δx‖·‖w‖ + ‖x̃‖·‖δw‖,

with the norms that the rounding really has, row by row, not their worst case. The sums add at most D·2⁻²³·‖x‖·‖w‖, and
a little for the score in fp32 (``rounding`` in ``ops/selection/triton_operand.py``). Squares below 2⁻¹²⁶ may be lost,
√D·2⁻⁶³ of a norm, and products as small from a sum: 1e-14 is added to every norm wherever one is written (by
``round_rows`` and by row_adam), which covers both; rows shorter than that prove nothing and are computed in fp32.

int8 with dither, up to a chance of 10⁻²⁰ per pair: see ``dither.py``.

So each approximate pre-activation has an upper bound that the one computed in fp32 does not exceed, and what is below a
threshold by that bound is below it in fp32.
"""

import triton
import triton.language as tl


@triton.jit
def error_bound(x_length, x_error, w_length, w_error, rounding, DITHERED: tl.constexpr):
    """How far the pre-activation in fp32 may be above the product."""
    if DITHERED:
        mine, other, both = w_length * x_error, x_length * w_error, x_length * w_length
        lost = tl.where(both > 0.0, 1e-18, 0.0)  # squares below 2⁻¹²⁶ may be; products with rows of zeros are exact
        return tl.sqrt(mine * mine + other * other) + rounding * both + lost
    return w_length * (x_error + rounding * x_length) + w_error * (x_length + x_error)


@triton.jit
def upper_bound(v, lost, x_length, x_error, w_length, w_error, rounding, DITHERED: tl.constexpr):
    """Upper bound of the pre-activation in fp32, given the product v. lost: what v lost when it was stored."""
    upper = v + error_bound(x_length, x_error, w_length, w_error, rounding, DITHERED) + tl.abs(v) * 2.0**-21 + lost
    return tl.where(v == float("-inf"), v, upper)  # a bias of −∞: −∞ + ∞ would be NaN, and a candidate
