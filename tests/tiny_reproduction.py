"""A whole ``monosem reproduce`` on tiny models: made once, for all tests that look at what it wrote."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from monosem.cli.main import main
from monosem.data.language_model import LMConfig, Transformer
from monosem.data.native import save_folder
from monosem.data.tokenizer import train_tokenizer
from monosem.reproduce import presets
from monosem.reproduce.presets import Preset, Run

HOOK = "blocks.0.mlp.hook_post"
ARABIC = ["كتاب", "مدرسة", "السلام", "عليكم", "بيت", "كبير", "صغير", "جميل", "في", "من"]
ENGLISH = ["the", "fox", "runs", "over", "a", "lazy", "dog", "and", "looks", "at"]
RUNS = (("A/0", 16), ("A/1", 64), ("A/2", 128), ("B/1", 64), ("shuffled/1", 64))
PRESET = Preset(
    "small",
    tuple(Run(name, width, 12) for name, width in RUNS),
    k=4,
    batch_size=512,
    index_tokens=None,
    compare_tokens=None,
    explained=6,
)


@dataclass(frozen=True)
class Reproduction:
    """Where everything is: the models ``first`` and ``second`` and the text in ``inputs``, what was made in ``out``."""

    inputs: Path
    out: Path

    @property
    def text(self) -> Path:
        return self.inputs / "text.jsonl"

    def run(self) -> int:
        """The command's exit status; what is done already is not done again."""
        torch.manual_seed(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(presets.PRESETS, "small", PRESET)
            models = ["--model", str(self.inputs / "first"), "--other", str(self.inputs / "second"), "--hook", HOOK]
            return main(["reproduce", *models, "--text", str(self.text), "--out", str(self.out), "--quiet"])


def reproduce(folder: Path) -> Reproduction:
    """Write the text and the models into a folder, and run the command."""
    reproduction = Reproduction(folder / "inputs", folder / "out")
    reproduction.inputs.mkdir()
    rows = list(_documents())
    reproduction.text.write_text("".join(json.dumps({"source": s, "text": t}) + "\n" for s, t in rows))
    tokenizer = train_tokenizer((t for _, t in rows), 400)
    cfg = LMConfig(d_vocab=400, n_ctx=32, d_model=16, n_heads=2, d_mlp=32)
    for name, seed in (("first", 0), ("second", 1)):
        save_folder(reproduction.inputs / name, Transformer(cfg).init_weights(seed), tokenizer)
    assert reproduction.run() == 0
    return reproduction


def _documents(count: int = 60) -> Iterator[tuple[str, str]]:
    draw = random.Random(0)
    for _ in range(count):
        yield "ar_books", " ".join(draw.choices(ARABIC, k=60))
        yield "en_books", " ".join(draw.choices(ENGLISH, k=60))
        yield "base64", base64.b64encode(draw.randbytes(150)).decode()
