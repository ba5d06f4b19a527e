"""Adam's factors in device memory, for a step that is replayed from a graph: they change with each replay."""

import triton
import triton.language as tl


@triton.jit
def advance_live(live, steps, lr, BETA1: tl.constexpr, BETA2: tl.constexpr):
    """Count a step, and write its factors as ``ops/adam.py::set_live_`` does, in float64. One program.

    The powers are products of squares, a rounding for each of the step's binary digits: 2⁻⁴⁸ of them, and of what is
    left of 1 when they are taken from it at most 2⁻³⁸, far from what fp32 holds.
    """
    t = tl.load(steps) + 1
    tl.store(steps, t)
    one = tl.full([], 1.0, tl.float64)
    power1, power2, square1, square2 = one, one, tl.full([], BETA1, tl.float64), tl.full([], BETA2, tl.float64)
    left = t
    while left > 0:
        power1 = tl.where((left & 1) != 0, power1 * square1, power1)
        power2 = tl.where((left & 1) != 0, power2 * square2, power2)
        square1 *= square1
        square2 *= square2
        left = left >> 1
    root2 = tl.sqrt(one - power2)
    tl.store(live + 3, (one / root2).to(tl.float32))
    tl.store(live + 4, (tl.load(lr).to(tl.float64) / (one - power1)).to(tl.float32))
    tl.store(live + 6, t.to(tl.int32).to(tl.float32, bitcast=True))
    tl.store(live + 7, root2.to(tl.float32))
