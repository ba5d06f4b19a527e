"""Where a dictionary belongs, as other libraries say it: names of modules and of files become hook names."""

from __future__ import annotations

import re
from pathlib import Path

# What the output of a module is called here, by the path of the module within its layer.
_OUTPUTS = {
    "": "hook_resid_post",
    "mlp": "hook_mlp_out",
    "attn": "hook_attn_out",
    "self_attn": "hook_attn_out",
    "attention": "hook_attn_out",
    "mlp.act": "mlp.hook_post",
    "mlp.act_fn": "mlp.hook_post",
}
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)[._](\d+)(?:\.(.*))?$")


def output_of(module: str) -> str | None:
    """The hook that holds the output of a module such as ``layers.5.mlp``; None where that is not known."""
    found = _LAYER.search(module)
    inner = _OUTPUTS.get(found[2] or "") if found else None
    return f"blocks.{found[1]}.{inner}" if found and inner else None


def search(path: Path, pattern: str) -> re.Match[str] | None:
    """The last part of a path, the file's name first, in which a pattern occurs."""
    for part in reversed(path.absolute().parts):
        if found := re.search(pattern, part):
            return found
    return None
