"""What an emulation of the CUDA kernels cannot show: that they run on a GPU as they do on a processor.

The operations' own tests, run on GPU tensors by each backend, are in ``tests/ops``. Those named ``sanitizer`` are small
enough for compute-sanitizer (``python bench/gpu.py --only tests,sanitizer``).
"""

import importlib.util

import pytest
import torch
from by_backend import implementations
from ops import every_kernel
from ops.cases import within_twice

from monosem.ops import cuda_launch, reference

cuda = implementations("cuda")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    pytest.mark.skipif(
        importlib.util.find_spec("monosem._cuda") is None, reason="monosem._cuda was not built (`monosem doctor`)"
    ),
]
HYPER = (1e-2, 0.9, 0.99, 1e-8, 7)


def right(size: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> None:
    """In the emulator, which fuses products and sums as a GPU does and makes quick quotients as inexact as it may, at
    most four fifths of any budget are used (``tests/ops/test_cuda_emulated.py``). The quick square root may take a unit
    more here, of the four that a quotient takes."""
    used = every_kernel.everything(*size, dtype, "cuda")
    assert max(used.values()) <= 1, used
    torch.cuda.synchronize()


@pytest.mark.parametrize("size", every_kernel.SMALL)
def test_every_kernel_small_enough_for_the_sanitizer(size):
    right(size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", every_kernel.WIDE)
def test_every_kernel_at_real_widths(size, dtype):
    right(size, dtype)


def test_many_entries_are_sorted_and_reduced_the_same_every_time():
    n, f, k, d = 8192, 131_072, 64, 64
    i = torch.randint(f, (n, k), device="cuda", dtype=torch.int32)
    i[:, 0] = 7  # on every token
    i, o = i.reshape(-1), torch.arange(n + 1, device="cuda") * k
    csc = cuda.csc(i, o, f)
    for mine, wanted in zip(csc, reference.csc(i, o, f), strict=True):
        assert torch.equal(mine, wanted)
    v, u = torch.rand(n * k, device="cuda"), torch.randn(n, d, device="cuda")
    first = cuda.row_grad(*csc, v, u)
    for _ in range(5):
        assert torch.equal(first, cuda.row_grad(*csc, v, u))
    # PyTorch's own loss on the processor, where index_add adds in order: on a GPU it adds in another each time.
    csc, v, u = (*(t.cpu() for t in csc),), v.cpu(), u.cpu()
    exact = reference.row_grad(*csc, v.double(), u.double())
    within_twice(first.cpu(), reference.row_grad(*csc, v, u), exact)


def test_every_block_size_that_tuning_may_choose_is_right(monkeypatch):
    for threads in cuda_launch.THREADS:
        monkeypatch.setattr(cuda_launch, "tuned", lambda *_, threads=threads: threads)
        right(every_kernel.TUNED)


def test_the_stream_of_the_caller_is_used():
    side = torch.cuda.Stream()
    w, m, v = (torch.zeros(4, 8, device="cuda") for _ in range(3))
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        g = torch.empty(1 << 28, device="cuda").fill_(0).sum() + torch.ones(4, 8, device="cuda")  # takes a while
        cuda.row_adam_(w, m, v, g, *HYPER, False)
    side.synchronize()
    torch.testing.assert_close(m.cpu(), torch.full((4, 8), 0.1))
