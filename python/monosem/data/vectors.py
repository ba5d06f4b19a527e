"""Vectors that were computed elsewhere, one per text: sentence embeddings, images with captions, proteins with names.

A folder of them stands in for a language model: its vocabulary is the texts, and text i has row i of the vectors as its
activation, at the one hook ``vectors``. Each text is a context of its own, behind a BOS as every context is.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from monosem.data import files, sealed
from monosem.data.adapter import Model, Replace
from monosem.data.records import DEFAULT_SOURCE
from monosem.data.text import Document, held_out_places, of_split
from monosem.data.token_rows import TokenRows
from monosem.data.unicode import check_text
from monosem.data.vocabulary import Vocabulary

HOOK = "vectors"
RECORD = "vectors.json"
_VECTORS, _TEXTS = "vectors.npy", "texts.jsonl"
_BLOCK = 1 << 14  # vectors checked at a time
_WANTED = "a folder written by monosem.save_vectors"
_ADVICE = "write the folder again with monosem.save_vectors"
_BOS = "[start]"


def save_vectors(
    folder: str | Path,
    vectors: Tensor | np.ndarray,
    texts: Sequence[str],
    sources: Sequence[str] | None = None,
) -> Path:
    """Write vectors with the text that each belongs to into a folder, which ``load_model`` and ``--model`` take.

    Args:
        folder: made when absent.
        vectors: floats [n, d]; kept as fp16 or fp32, others as fp32. An array on disk (``np.load(…, mmap_mode="r")``)
            is read part by part.
        texts: n texts; names or captions where the vectors are of something else.
        sources: n labels, for example the collection or the class of each text; default: one label for all.

    Raises:
        ValueError: no vectors, vectors of another shape or with NaN or Inf, or another number of texts or labels.
    """
    array = _array(vectors)
    texts = _strings("texts", texts, len(array))
    sources = [DEFAULT_SOURCE] * len(array) if sources is None else _strings("sources", sources, len(array))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def write_vectors(part: Path) -> None:
        with part.open("wb") as out:
            np.save(out, array)

    def write_texts(part: Path) -> None:
        with part.open("w", encoding="utf-8") as out:
            for source, text in zip(sources, texts, strict=True):
                out.write(json.dumps({"source": source, "text": text}, ensure_ascii=False) + "\n")

    record = {"format": 1, "vectors": list(array.shape), "dtype": str(array.dtype)}
    sealed.write(folder / RECORD, record, {_VECTORS: write_vectors, _TEXTS: write_texts})
    return folder


def is_folder(folder: Path) -> bool:
    """Whether ``save_vectors`` wrote a folder."""
    return (folder / RECORD).is_file()


class Vectors(Model):
    """The vectors of a folder, read from disk as they are asked for, in the place of a language model.

    Attributes:
        texts_path: the file of the texts, each with its source.
        digest: of the content of the folder, as of a model's weights.
    """

    predicts = False
    of_texts = True

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        folder = Path(folder)
        record, digests = sealed.read(folder / RECORD, "model", _WANTED)
        for name in (_VECTORS, _TEXTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"model: no {name} in {str(folder)!r}; wanted {_WANTED}")
            sealed.check(folder / name, digests, "model", _ADVICE)
        self._vectors = files.read_array(folder / _VECTORS, "model", _ADVICE)
        if self._vectors.ndim != 2 or list(self._vectors.shape) != record.get("vectors"):
            raise ValueError(
                f"model: {str(folder / _VECTORS)!r} holds {list(self._vectors.shape)}, and {RECORD} names "
                f"{record.get('vectors')}; {_ADVICE}"
            )
        self.name, self.texts_path = str(folder), folder / _TEXTS
        self.digest = f"vectors {digests.get(_VECTORS, '')[:16]}{digests.get(_TEXTS, '')[:8]}"
        self.n_ctx, self.d_vocab = 2, len(self._vectors) + 1
        self.hook_names, self._widths = [HOOK], {HOOK: int(self._vectors.shape[1])}

    @property
    def bos_id(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self._vectors)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> Vectors:
        """Nothing to move: dictionaries take the vectors to their own device."""
        return self

    # ---------------------------------------------------------------- texts

    @cached_property
    def documents(self) -> list[Document]:
        """The texts, with their sources."""
        with self.texts_path.open(encoding="utf-8") as lines:
            found = [Document(**json.loads(line)) for line in lines]
        if len(found) != len(self._vectors):
            raise ValueError(
                f"model: {str(self.texts_path)!r} holds {len(found)} texts for {len(self._vectors)} vectors; {_ADVICE}"
            )
        return found

    def rows(self, split: str = "all") -> TokenRows:
        """The texts as contexts: ``"train"``, ``"held_out"`` (2 % of each source) or ``"all"``.

        Raises:
            ValueError: another split, or none of the texts is in it.
        """
        if split not in ("train", "held_out", "all"):
            raise ValueError(f"split: got {split!r}; wanted 'train', 'held_out' or 'all'")
        numbered = [Document(d.source, str(i)) for i, d in enumerate(self.documents)]
        if split != "all":
            held = held_out_places(Counter(d.source for d in numbered))
            numbered = list(of_split(numbered, held, held_out=split == "held_out"))
        if not numbered:
            raise ValueError(
                f"split: none of the {len(self._vectors)} texts of {self.name!r} is in {split!r}; wanted at least two "
                "texts of a source, of which one is held out. Use split 'all'."
            )
        sources = sorted({d.source for d in self.documents})
        at = {name: i for i, name in enumerate(sources)}
        ids = torch.tensor([int(d.text) for d in numbered], dtype=torch.int32, device="cpu")
        source = torch.tensor([at[d.source] for d in numbered], dtype=torch.int32, device="cpu")
        return TokenRows(
            torch.stack([torch.full_like(ids, self.bos_id), ids], 1), torch.stack([source, source], 1), sources
        )

    def token_str(self, token: int) -> str:
        if not 0 <= token < self.d_vocab:
            raise ValueError(f"token: got {token}; wanted 0 ≤ token < {self.d_vocab}")
        return _BOS if token == self.bos_id else self.documents[token].text or "(empty)"

    def token_bytes(self, token: int) -> bytes:
        return self.token_str(token).encode()

    def text_within(self, ids: Sequence[int]) -> str:
        return " ".join(map(self.token_str, ids))

    def decode(self, ids: Sequence[int]) -> str:
        return self.text_within(ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self._refuse("it makes no vector of another text")

    # ---------------------------------------------------------------- vectors

    def _forward(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor], Tensor | None]]) -> None:
        ids = tokens.reshape(-1).numpy()
        found = torch.zeros(len(ids), self._vectors.shape[1], dtype=torch.float32, device="cpu")
        texts = np.flatnonzero(ids != self.bos_id)
        found[torch.from_numpy(texts)] = torch.from_numpy(self._vectors[ids[texts]].astype(np.float32))
        hooks[HOOK](found.view(*tokens.shape, -1))

    # ---------------------------------------------------------------- what only a model has

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(
            f"model: {self.name!r} is a folder of vectors that were computed elsewhere; {why}. A dictionary can be "
            "trained on them, evaluated without losses, indexed and browsed"
        )

    def check_written(self, hook_name: str) -> None:
        self._refuse("nothing reads what is put in their place")

    def logit_directions(self, hook_name: str) -> Tensor:
        self._refuse("no next token is predicted from them")

    def _compared(self, tokens: Tensor, runs: Sequence[dict[str, Replace] | None]) -> Any:
        self._refuse("no next token is predicted from them")

    def _writer(self, replace: dict[str, Replace] | None) -> Any:
        self._refuse("they write no text")

    def _unembed(self, hidden: Tensor) -> Tensor:
        self._refuse("no next token is predicted from them")

    def _final_path(self) -> Any:
        self._refuse("no next token is predicted from them")

    def _mlp_out(self, layer: int) -> Tensor:
        self._refuse("they have no layers")

    def _vocabulary(self) -> Vocabulary:
        self._refuse("they have no tokenizer")


def own_rows(model: object, text: Any, split: str, context: int | None) -> TokenRows | None:
    """The rows of a folder of vectors, which has its own texts; None for a language model.

    Raises:
        ValueError: another text or a length of contexts is asked for.
    """
    if not isinstance(model, Vectors):
        return None
    for name, value, none in (("text", text, ("sample", None, str(model.texts_path))), ("context", context, (None,))):
        if value not in none and str(value) != str(model.texts_path.absolute()):
            raise ValueError(
                f"{name}: got {value!r}; {model.name!r} holds vectors of its own texts, {model.texts_path.name}. Leave "
                "it out."
            )
    return model.rows(split)


def _array(vectors: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().cpu()
        vectors = (vectors if vectors.dtype == torch.float16 else vectors.float()).numpy()
    array = np.asanyarray(vectors)
    if array.ndim != 2 or not array.size or array.dtype.kind != "f":
        raise ValueError(f"vectors: got {array.dtype} {list(array.shape)}; wanted floats [texts, width], at least one")
    if array.dtype.name not in ("float16", "float32"):
        array = array.astype(np.float32)
    for start in range(0, len(array), _BLOCK):
        bad = ~np.isfinite(array[start : start + _BLOCK]).all(1)
        if bad.any():
            raise ValueError(
                f"vectors: number {start + int(bad.argmax())} holds NaN or Inf; wanted finite numbers. Compute it "
                "again, or leave the text out."
            )
    return array


def _strings(name: str, values: Sequence[str], count: int) -> list[str]:
    if isinstance(values, str) or len(values) != count:
        got = "one string" if isinstance(values, str) else str(len(values))
        raise ValueError(f"{name}: got {got} for {count} vectors; wanted one for each vector")
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"{name}: number {i} is {value!r:.50}; wanted a string")
        check_text(value, f"{name}: number {i}")
    return list(values)
