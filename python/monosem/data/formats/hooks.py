"""Where a dictionary belongs, as other libraries say it in names of modules, folders and files."""

from __future__ import annotations

import re
from pathlib import Path

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)[._](\d+)$")


def after_layer(module: str) -> str | None:
    """The hook that holds the output of a whole layer, ``layers.5``.

    None for its parts: what is added to the residual stream may be their output (Llama), or a norm of it (Gemma).
    """
    found = _LAYER.search(module)
    return f"blocks.{found[1]}.hook_resid_post" if found else None


def search(path: Path, pattern: str) -> re.Match[str] | None:
    """The last part of a path, the file's name first, in which a pattern occurs."""
    for part in reversed(path.absolute().parts):
        if found := re.search(pattern, part):
            return found
    return None
