"""Names of language models: what they are called at Hugging Face, with what changes their numbers, in one string.

``NAME[@REVISION][+DTYPE]``: files keep the string, so that a dictionary's model is loaded again as it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}  # as typed: of PyTorch


@dataclass(frozen=True)
class ModelName:
    """A model's name or folder; the revision at Hugging Face (None: the newest); its dtype (None: as it is stored)."""

    path: str
    revision: str | None = None
    dtype: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """The parts of a name; signs in the path of a folder or a file that exists belong to it."""
        if Path(text).exists():
            return cls(text)
        path, plus, dtype = text.rpartition("+")
        if not plus or dtype not in DTYPES:
            path, dtype = text, None
        name, at, revision = path.rpartition("@")
        is_revision = at and name and revision and not Path(path).exists()
        return cls(name, revision, dtype) if is_revision else cls(path, None, dtype)

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return self.path + at + ("" if self.dtype is None else f"+{self.dtype}")

    def with_options(self, revision: str | None, dtype: object | None) -> ModelName:
        """The same model with options beside its name.

        Args:
            dtype: of PyTorch, or its name there or here; ``"auto"`` and None: as it is stored.

        Raises:
            ValueError: an unknown dtype, or an option that the name has otherwise.
        """
        changed = self
        for option, value in (("revision", revision), ("dtype", short_dtype(dtype))):
            there = getattr(self, option)
            if value is not None and there is not None and value != there:
                raise ValueError(f"{option}: got {value!r} beside {str(self)!r}; wanted one of the two. Leave one out.")
            if value is not None:
                changed = replace(changed, **{option: value})
        return changed


def short_dtype(dtype: object | None) -> str | None:
    """``"bf16"`` of ``torch.bfloat16``, ``"bfloat16"`` or ``"bf16"``; None of None and ``"auto"``."""
    typed = str(dtype).removeprefix("torch.")
    if dtype is None or typed == "auto":
        return None
    for short, long in DTYPES.items():
        if typed in (short, long):
            return short
    raise ValueError(f"dtype: got {dtype!r}; wanted {', '.join(DTYPES)}, or auto: as the model is stored")
