"""A language model of a few lines: the activation of a token encodes its id."""

import difflib
import time

import torch

HOOK = "blocks.0.mlp.hook_post"


class FakeModel:
    """Values 0 and 1 of an activation are the low and the high byte of the token, exact even in bf16."""

    name, n_ctx, d_vocab, bos_id = "fake", 16, 65_536, 0
    hook_names = [HOOK, "blocks.0.hook_resid_post"]

    def __init__(self, width: int = 5, offset: float = 0.0, delay: float = 0.0) -> None:
        self._width, self.offset, self.delay, self.forwards = width, offset, delay, 0

    def width(self, hook_name: str) -> int:
        if hook_name not in self.hook_names:
            near = difflib.get_close_matches(hook_name, self.hook_names, n=3, cutoff=0)
            raise ValueError(f"hook_name: got {hook_name!r}; wanted one of this model, the nearest are {near}")
        return self._width

    def activations_at(self, tokens: torch.Tensor, hook_names) -> list[torch.Tensor]:
        """Those of the second hook are the negative of the first's."""
        at_first = self.activations(tokens, hook_names[0])
        return [at_first if name == HOOK else -at_first for name in hook_names]

    def activations(self, tokens: torch.Tensor, hook_name: str) -> torch.Tensor:
        self.width(hook_name)
        self.forwards += 1
        time.sleep(self.delay)
        rest = [torch.sin(tokens * float(j)) for j in range(2, self._width)]
        return torch.stack([(tokens % 256).float(), (tokens // 256).float(), *rest], dim=-1) + self.offset


def numbered(rows: int, n_ctx: int = 16) -> torch.Tensor:
    """Contexts in which token r·n_ctx + p stands in row r at position p."""
    return torch.arange(rows * n_ctx).view(rows, n_ctx)


def token_of(activations: torch.Tensor) -> torch.Tensor:
    """The tokens whose activations [n, width] these are."""
    return (activations[:, 0].float() + 256 * activations[:, 1].float()).long()
