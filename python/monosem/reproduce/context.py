"""Shared by the stages of a reproduction: models, text, dictionaries; each loaded once, on first use."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosem.analysis.inputs import Subject, load_rows
from monosem.data import fingerprint
from monosem.data.models import load_model
from monosem.data.serialization import load
from monosem.data.shuffled_weights import SHUFFLED
from monosem.data.stored_rows import stored_rows
from monosem.reproduce.presets import CONTROL, FIRST, SECOND, Preset, Run

if TYPE_CHECKING:
    from monosem.data.token_rows import TokenRows


@dataclass
class Context:
    """A reproduction in a folder.

    Args:
        folder: where everything goes: ``tokens/``, ``dictionaries/``, ``evidence/``, ``features/``, ``report.html``.
        model, other: the two language models (other None: universality is left out, with a note).
        hook_name: where both are looked into.
        text: JSON lines, or ``"sample"``.
    """

    folder: Path
    preset: Preset
    model: str = "A"
    other: str | None = "B"
    hook_name: str = "blocks.0.mlp.hook_post"
    text: str = "sample"
    seed: int = 0
    progress: bool = True
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False)

    def settings(self) -> dict[str, Any]:
        """The settings that results depend on: a folder with other settings is refused."""
        return {
            "preset": self.preset.to_dict(),
            "model": self.model,
            "other": self.other,
            "hook_name": self.hook_name,
            "text": self.text,
            "seed": self.seed,
            "made_from": self.made_from,
        }

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """Digests of the text and of the models: a name alone does not identify its content."""
        models = {FIRST: self.model} | ({SECOND: self.other} if self.other is not None else {})
        digests = {f"model {name}": fingerprint.of_model(self.language_model(which)) for which, name in models.items()}
        return {f"text {self.text}": fingerprint.of_text(self.text)["sha256"]} | digests

    @property
    def runs(self) -> list[Run]:
        """The dictionaries of this reproduction: all of the preset that the given models allow."""
        return [run for run in self.preset.runs if run.model != SECOND or self.other is not None]

    def language_model(self, which: str) -> Any:
        """``A``, ``B`` or ``shuffled``: the language model behind a run."""
        names = {FIRST: self.model, SECOND: self.other, CONTROL: f"{self.model}{SHUFFLED}"}
        return self._once(f"model {which}", lambda: load_model(names[which]))

    @cached_property
    def train(self) -> "TokenRows":
        """The text that dictionaries are trained and examined on."""
        return self._rows(FIRST, "train")

    @cached_property
    def held_out(self) -> "TokenRows":
        """The text that they are evaluated on."""
        return self._rows(FIRST, "held_out")

    def rows_for(self, which: str, split: str) -> "TokenRows":
        """The same text as the tokens of a model: tokenized again only where the tokenizer may differ."""
        if which != SECOND or self._same_tokenizer():
            return self.train if split == "train" else self.held_out
        return self._once(f"rows {split}", lambda: self._rows(SECOND, split))

    def _rows(self, which: str, split: str) -> "TokenRows":
        """The text as tokens of a model, kept in the folder."""
        model = self.language_model(which)
        text = self.made_from[f"text {self.text}"]
        # The model decides by its tokenizer and its context length; another one of the same name is refused by begin().
        name = self.other if which == SECOND else self.model
        made_of = {"text": text, "split": split, "model": self.made_from[f"model {name}"], "n_ctx": model.n_ctx}
        return stored_rows(
            self.folder / "tokens" / f"{which}-{split}", made_of, lambda: load_rows(model, self.text, split)
        )

    def dictionary(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / "dictionaries" / name.replace("/", "-")

    def subject(self, name: str) -> Subject:
        """A trained dictionary with its model: ``A/1``."""
        model = self.language_model(self.preset.run(name).model)
        return self._once(f"subject {name}", lambda: Subject(load(self.dictionary(name)), model, self.hook_name))

    def evidence(self, name: str) -> Path:
        """Where the result of a stage goes."""
        return self.folder / "evidence" / f"{name}.json"

    def _same_tokenizer(self) -> bool:
        probe = "The quick brown fox, ١٢٣ שלום acgt; def f(x): return x + 1"
        first, second = (self.language_model(w) for w in (FIRST, SECOND))
        return first.n_ctx == second.n_ctx and first.encode(probe) == second.encode(probe)

    def _once(self, key: str, make: Any) -> Any:
        if key not in self._loaded:
            self._loaded[key] = make()
        return self._loaded[key]
