"""A model whose neurons follow known rules, over text of a known vocabulary: an explanation must find the rules."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from monosem.analysis.index import build_index
from monosem.analysis.neuron_basis import NeuronBasis

HOOK = "blocks.0.mlp.hook_post"
DIGITS = [f"{n}" for n in range(10, 70)]
ARABIC = [f"{a}{b}" for a in "ابتثجحخدذرز" for b in "سشصضطظ"][:60]
WORDS = [f" {a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "ndrst"][:280]
OTHERS = ["<|bos|>", " the", "$", "(", ")", ".", "\n", "⟨D8⟩"]
PIECES = [*OTHERS, *DIGITS, *ARABIC, *WORDS]
NUMBER = {t: i for i, t in enumerate(PIECES)}
RULES = ("token", "script", "graded", "context", "noise")


class RuledModel:
    """Neuron 0: 3 on `` the``. 1: 2 on Arabic. 2: 4 on digits after ``$``, 1 on other digits. 3: 5 on ``)`` where ``(``
    stands one to four tokens before. 4: random. Neurons 0, 2 raise digits, 1 Arabic, 3 words, 4 nothing in particular.
    """

    name, n_ctx, bos_id, d_vocab = "ruled", 64, 0, len(PIECES)
    hook_names = [HOOK]

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        ids = torch.arange(self.d_vocab)
        self.digit = (ids >= NUMBER[DIGITS[0]]) & (ids <= NUMBER[DIGITS[-1]])
        self.arabic = (ids >= NUMBER[ARABIC[0]]) & (ids <= NUMBER[ARABIC[-1]])
        self.word = ids >= NUMBER[WORDS[0]]
        self.noise = torch.rand(self.d_vocab, generator=self.generator)

    def width(self, hook_name: str) -> int:
        return len(RULES)

    def activations(self, tokens: torch.Tensor, hook_name: str) -> torch.Tensor:
        before = tokens.roll(1, 1)
        out = torch.zeros(*tokens.shape, len(RULES))
        out[..., 0] = 3.0 * (tokens == NUMBER[" the"])
        out[..., 1] = 2.0 * self.arabic[tokens]
        out[..., 2] = self.digit[tokens] * (1.0 + 3.0 * (before == NUMBER["$"]))
        opened = sum((tokens.roll(n, 1) == NUMBER["("]).int() for n in range(1, 5)) > 0
        out[..., 3] = 5.0 * ((tokens == NUMBER[")"]) & opened)
        # A hash of the whole row so far: no rule that an explanation could find.
        mixed = (tokens.cumsum(1) * 2654435761 + torch.arange(tokens.shape[1]) * 40503) % 1000 / 1000
        out[..., 4] = torch.where(mixed < 0.05, 0.2 + 15 * mixed, torch.zeros_like(mixed))
        return out

    def logit_directions(self, hook_name: str) -> torch.Tensor:
        raised = torch.stack([self.digit, self.arabic, self.digit, self.word, torch.zeros_like(self.digit)]).float()
        return 5 * raised + 0.5 * torch.rand(raised.shape, generator=torch.Generator().manual_seed(1))

    def token_str(self, token: int) -> str:
        return PIECES[token]

    def decode(self, ids) -> str:
        return "".join(PIECES[i] if PIECES[i] != "⟨D8⟩" else "\N{REPLACEMENT CHARACTER}" for i in ids)

    text_within = decode


def ruled_rows(rows: int = 240, seed: int = 0) -> SimpleNamespace:
    """Random sentences in which every rule has its occasions and its counterexamples."""
    random = np.random.default_rng(seed)
    tokens = np.zeros((rows, RuledModel.n_ctx), dtype=np.int32)
    for row in tokens:
        line: list[str] = []
        while len(line) < len(row):
            kind = random.integers(6)
            some = lambda pool, n: [pool[i] for i in random.integers(0, len(pool), n)]
            if kind == 0:
                line += [" the", *some(WORDS, 3)]
            elif kind == 1:
                line += ["$", *some(DIGITS, 1), *some(WORDS, 2)]
            elif kind == 2:
                line += [*some(WORDS, 1), *some(DIGITS, 1), "."]
            elif kind == 3:
                line += some(ARABIC, int(random.integers(1, 5)))
            elif kind == 4:
                line += ["(", *some(WORDS, int(random.integers(0, 4))), ")"]
            else:
                line += [*some(WORDS, 4), ".", "\n"] if random.integers(2) else [*some(WORDS, 3), ")"]
        row[1:] = [NUMBER[t] for t in line[: len(row) - 1]]
    source = np.zeros_like(tokens, dtype=np.uint8)
    return SimpleNamespace(tokens=torch.from_numpy(tokens), source=torch.from_numpy(source), sources=["made up"])


def ruled_subject() -> SimpleNamespace:
    """The neurons of the model as a dictionary."""
    return SimpleNamespace(sae=NeuronBasis(len(RULES)), model=RuledModel(), hook_name=HOOK)


def ruled_index(subject, rows):
    return build_index(subject, rows, progress=False)
