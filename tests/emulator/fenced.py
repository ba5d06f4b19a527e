"""Every emulated kernel on arrays that lie between pages that nobody may touch, and on codes with unused room.

Run in a process of its own, which a read or a write outside of an array ends: ``python fenced.py FOLDER``, where the
module is built, prints each case before it begins.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from by_backend import implementations

from monosem.ops import cuda_launch, reference

cuda = implementations("cuda")

PAGE = mmap.PAGESIZE
_PROTECT = ctypes.CDLL(None, use_errno=True).mprotect
# (tokens, D, F, unused room): odd, one, none, hot features, wide rows.
SIZES = [
    (6, 5, 9, 0),
    (1, 1, 1, 3),
    (0, 4, 3, 9),
    (23, 36, 77, 200),
    (300, 16, 5, 700),
    (20, 1160, 40, 90),
    (3, 8200, 3, 40),
]
HYPER = (1e-2, 0.9, 0.99, 1e-8, 7)


class Fences:
    """Copies of tensors that end (or begin) at a page that cannot be read."""

    def __init__(self, at_end: bool) -> None:
        self.at_end, self._kept = at_end, []

    def __call__(self, t: Tensor) -> Tensor:
        n = t.numel() * t.element_size()
        if not n:
            return t
        inner = -(-n // PAGE) * PAGE
        memory = mmap.mmap(-1, inner + 2 * PAGE)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        first = PAGE + (inner - n if self.at_end else 0)
        copy = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=first).view(t.shape)
        copy.copy_(t)
        for page in (begin, begin + PAGE + inner):
            if _PROTECT(ctypes.c_void_p(page), PAGE, 0):  # PROT_NONE, which `mmap` does not name
                raise OSError(ctypes.get_errno(), "mprotect")
        self._kept.append(memory)
        return copy

    def empty(self, like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        fill = torch.nan if dtype.is_floating_point else -77
        return self(torch.full(shape, fill, dtype=dtype))


def roomy(n: int, d: int, f: int, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """A code with ``room`` unused entries behind: values 0, the feature F."""
    g = torch.Generator().manual_seed(n + d)
    counts = torch.randint(0, min(f, 40) + 1, (n,), generator=g)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = [torch.randperm(f, generator=g)[: int(c)].sort().values for c in counts]
    indices = torch.cat([*rows, torch.full((room,), f)]).int()
    values = torch.rand(len(indices), generator=g)
    values[int(offsets[-1]) :] = 0
    return values, indices, offsets


def used(code: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    n = int(code[2][-1])
    return code[0][:n], code[1][:n], code[2]


def close(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours.double(), exact.double(), rtol=1e-5, atol=1e-5)


def cases(fence: Fences) -> Iterator[str]:
    for n, d, f, room in SIZES:
        code = roomy(n, d, f, room)
        plain = used(code)
        values, indices, offsets = (fence(t) for t in code)
        name, nnz = f"N {n} D {d} F {f} room {room}", len(plain[0])
        weights, x = torch.randn(f, d) / d**0.5, torch.randn(n, d)
        w, b, target = fence(weights), fence(weights.mean(0)), fence(x)

        yield f"sparse_decode, {name}"
        decoded = reference.sparse_decode(*plain, weights, weights.mean(0))
        close(cuda.sparse_decode(values, indices, offsets, w, b), decoded)
        yield f"decode_loss, {name}"
        loss, residual, slopes = cuda.decode_loss(values, indices, offsets, w, b, target)
        wanted = reference.decode_loss(*plain, weights, weights.mean(0), x)
        for ours, exact in zip((loss, residual, slopes[:nnz]), wanted, strict=True):
            close(ours, exact)
        yield f"gather_dot, {name}"
        close(cuda.gather_dot(target, indices, offsets, w)[:nnz], reference.gather_dot(x, *plain[1:], weights))

        yield f"csc, {name}"
        starts, entries, tokens = cuda.csc(indices, offsets, f)
        for ours, exact in zip((starts, entries[:nnz], tokens[:nnz]), reference.csc(*plain[1:], f), strict=True):
            assert torch.equal(ours, exact)
        assert (tokens[nnz:] == n).all()  # of no token, and never read
        starts, entries, tokens = fence(starts), fence(entries), fence(tokens)
        csc = reference.csc(*plain[1:], f)
        yield f"row_grad, {name}"
        gradient = reference.row_grad(*csc, plain[0], x)
        close(cuda.row_grad(starts, entries, tokens, values, target), gradient)
        yield f"feature_sum, {name}"
        close(cuda.feature_sum(starts, entries, values), reference.feature_sum(csc[0], csc[1], plain[0]))
        for unit in (False, True):
            for moments in (torch.float32, torch.bfloat16):
                unitary = torch.nn.functional.normalize(weights, dim=-1)
                start = [unitary, torch.zeros(f, d, dtype=moments), torch.full((f, d), 1e-3, dtype=moments)]
                exact = [t.clone() for t in start]
                reference.row_adam_(*exact, gradient, *HYPER, unit)
                for op in ("row_adam_", "row_grad_adam_"):
                    yield f"{op}, unit {unit}, {moments}, {name}"
                    mine = [fence(t) for t in start]
                    copy, norms = fence(torch.zeros(f, d, dtype=torch.bfloat16)), fence(torch.zeros(2, f))
                    if op == "row_adam_":
                        cuda.row_adam_(*mine, fence(gradient), *HYPER, unit, copy=copy, norms=norms)
                    else:
                        cuda.row_grad_adam_(
                            *mine, starts, entries, tokens, values, target, 1.0, *HYPER, unit, copy=copy, norms=norms
                        )
                    close(mine[0], exact[0])
            yield f"own, unit {unit}, {name}"
            blocks = max(b for b in (1, 2, 3, 5) if d % b == 0)
            own, state = torch.randn(f, blocks), (unitary, torch.zeros(f, d), torch.full((f, d), 1e-3))
            exact = [t.clone() for t in state]
            reference.row_adam_(*exact, gradient, *HYPER, unit, own=own)
            mine, also = ([fence(t) for t in state] for _ in range(2))
            cuda.row_adam_(*mine, fence(gradient), *HYPER, unit, own=fence(own))
            cuda.row_grad_adam_(
                *also, starts, entries, tokens, values, target, 1.0, *HYPER, unit, lazy=True, own=fence(own)
            )
            close(mine[0], exact[0])
            close(also[0], exact[0])
        for own in (False, True):
            yield f"encoder_grad_adam_, bias {own}, {name}"
            mine = [fence(t) for t in (weights, torch.zeros(f, d), torch.full((f, d), 1e-3))]
            copy, norms = fence(torch.zeros(f, d, dtype=torch.bfloat16)), fence(torch.zeros(2, f))
            sums, weighted = cuda.encoder_grad_adam_(
                *mine, starts, entries, tokens, values, target, fence(values) if own else None, *HYPER, copy=copy,
                norms=norms,
            )  # fmt: skip
            wanted = reference.feature_sum(csc[0], csc[1], plain[0])
            close(sums, wanted)
            close(weighted, wanted @ weights)
        yield f"resample_, {name}"
        living, chosen = torch.ones(f, dtype=torch.bool), torch.tensor([f - 1])
        living[chosen] = f == 1
        inputs, both = torch.randn(1, d), [torch.randn(f, d), torch.randn(f, d), torch.randn(f)]
        mine = [fence(t) for t in both]
        cuda.resample_(*mine, [], fence(chosen), fence(inputs), fence(living), 0.2)
        reference.resample_(*both, [], chosen, inputs, living, 0.2)
        close(mine[0], both[0])


def main(folder: str) -> None:
    import build

    cuda_launch.kernels = build.load(build.build(Path(folder)))
    cuda_launch.stream = lambda t: 0
    cuda_launch.CUT_BITS = 3  # hot features of a few entries
    torch.manual_seed(0)
    for at_end in (True, False):
        fence = Fences(at_end)
        cuda_launch.empty = fence.empty
        for name in cases(fence):
            print(name, "behind" if at_end else "in front", flush=True)
    print("all is well", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
