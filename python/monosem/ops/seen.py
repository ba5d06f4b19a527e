"""Whether a tensor is still the one that something was computed from."""

from __future__ import annotations

from torch import Tensor


class Seen:
    """A tensor as it was: of which memory, and after how many changes in place.

    It keeps that memory, so that no other tensor can be given its address, until another is seen. Changes through
    ``.data`` within the same memory are not counted by PyTorch. Copies have seen nothing.
    """

    def __init__(self, t: Tensor | None = None) -> None:
        self._held = None if t is None else t.detach()
        self._version = 0 if t is None else t._version

    def is_still(self, t: Tensor) -> bool:
        """Whether ``t`` is in this memory, and was not changed in place."""
        return self._held is not None and self._held.data_ptr() == t.data_ptr() and self._version == t._version

    def __reduce__(self) -> tuple:
        return Seen, ()
