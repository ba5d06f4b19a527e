"""CUDA graphs simulated on a CPU: which tensors a graph keeps.

A call is recorded operation by operation, with the tensors and numbers that it was given, and everything it changed is
put back: as in a capture, nothing has run. A replay runs the same operations on the same memory, writes their results
where the recorded ones are, and knows no Python: a number that the host passed is for ever the number of then.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = ("_local_scalar_dense", "nonzero", "item", "equal", "masked_select", "is_nonzero")


class Recorder(TorchDispatchMode):
    """All operations on tensors while it is on."""

    def __init__(self):
        super().__init__()
        self.operations, self.before = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.name().split("::")[1].split(".")[0] in WAITS:
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({function.name()})")
        changed = [
            value
            for i, argument in enumerate(function._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
            for value in tree_leaves(kwargs.get(argument.name, args[i] if i < len(args) else None))
            if isinstance(value, torch.Tensor)
        ]
        self.before += [(t, t.detach().clone()) for t in changed]
        out = function(*args, **kwargs)
        self.operations.append((function, args, kwargs, out))
        return out


class Graph:
    """A recorded graph. ``did``: the list of replays of all graphs of a test."""

    def __init__(self, recorder, did):
        self._operations, self._did = recorder.operations, did
        self._changed = tuple({id(t): t for t, _ in recorder.before}.values())

    @torch.no_grad()
    def replay(self):
        self._did.append("replay")
        with torch.autograd._unsafe_preserve_version_counter(self._changed):  # a replay counts no change of a tensor
            self._run()

    def _run(self):
        for function, args, kwargs, out in self._operations:
            new = function(*args, **kwargs)
            for kept, fresh in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != fresh.data_ptr():  # else changed in place
                    assert kept.shape == fresh.shape, function
                    kept.copy_(fresh)


def capture_into(did, on):
    """A stand-in for ``captured.capture``: what graphs do goes to the list ``did``; ``on`` is a one-element list, True
    inside a capture."""
    from monosem.train.captured import CaptureFailed

    def capture(call, device):
        did.append("capture")
        recorder = Recorder()
        on[0] = True
        try:
            with recorder, torch.no_grad():
                out = call()
        except Exception as error:
            raise CaptureFailed(f"{type(error).__name__}: {error}") from error
        finally:
            on[0] = False
            with torch.no_grad():
                for t, before in reversed(recorder.before):
                    t.copy_(before)
        return Graph(recorder, did), out

    return capture
