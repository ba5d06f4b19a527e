"""Dead features take the direction of their input: decoder unit, encoder scaled, bias 0."""

import triton
import triton.language as tl


@triton.jit
def row_norm(w, out, D, BD: tl.constexpr):
    """out[f] = ‖w[f]‖. One program: one row."""
    f = tl.program_id(0).to(tl.int64)
    acc = tl.zeros([BD], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        v = tl.load(w + f * D + cols, mask=cols < D, other=0.0)
        acc += v * v
    tl.store(out + f, tl.sqrt_rn(tl.sum(acc)))


@triton.jit
def resample(w_enc, w_dec, b_enc, features, inputs, norm, D, BD: tl.constexpr):
    """Rows of features[i] from inputs[i]; ``norm`` is the encoder rows' new length. One program: one feature."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.load(features + i)
    acc = tl.zeros([BD], tl.float32)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        v = tl.load(inputs + i * D + cols, mask=cols < D, other=0.0).to(tl.float32)
        acc += v * v
    length = tl.sqrt_rn(tl.sum(acc))
    encoder = tl.load(norm)
    for d in range(0, D, BD):
        cols = d + tl.arange(0, BD)
        v = tl.div_rn(tl.load(inputs + i * D + cols, mask=cols < D, other=0.0).to(tl.float32), length)
        tl.store(w_dec + f * D + cols, v, mask=cols < D)
        tl.store(w_enc + f * D + cols, v * encoder, mask=cols < D)
    tl.store(b_enc + f, 0.0)
