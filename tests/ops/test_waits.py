"""Which operations wait for the GPU is said (``bench/operations.py``): the others can be captured as a graph."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monosem.bench.operations import operations
from monosem.bench.workloads import WORKLOADS
from monosem.ops import gpu, layout
from monosem.ops.gpu import available

if available("triton"):
    pytest.skip(available("triton"), allow_module_level=True)
pytestmark = pytest.mark.usefixtures("device", "triton_only")
aten = torch.ops.aten
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2}


class Waits(TorchDispatchMode):
    """Tells of everything for which the host would wait, were the tensors on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masked = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1]
        )
        if packet in READS or masked:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def waits_here(call, device, monkeypatch) -> bool:
    if device == "cuda":
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        except RuntimeError as error:
            assert "synchroniz" in str(error)
            return True
        finally:
            torch.cuda.set_sync_debug_mode(before)
        return False
    mode, tolist, plain = Waits(), torch.Tensor.tolist, gpu.call

    def looked_into(*args):
        with mode:
            return plain(*args)

    with monkeypatch.context() as patch:
        # Of a tensor on a CPU it reads memory, without an operation.
        patch.setattr(torch.Tensor, "tolist", lambda t: mode.seen.append("tolist") or tolist(t))
        patch.setattr(gpu, "call", looked_into)
        # Codes on a CPU, the interpreter's too, are checked before they are read; on a GPU with MONOSEM_CHECK=1 only.
        patch.setattr(layout, "checked_code", lambda i, o, _: (i, o, len(o) - 1))
        with mode:
            call()
    return bool(mode.seen)


@pytest.mark.parametrize("kind", ["topk", "relu"])
def test_an_operation_that_waits_says_so(kind, device, monkeypatch):
    made = operations(WORKLOADS["tiny"].with_(n=4, d=16, f=64, k=4, kind=kind), device)
    with torch.no_grad():
        for op in made:
            if device == "cuda":
                op.call()  # compiles and allocates
            assert waits_here(op.call, device, monkeypatch) == op.waits, op.name
    assert sum(op.waits for op in made) == (kind == "relu")
