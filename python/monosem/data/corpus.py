"""The tokenized text that a language model is trained on: made once, kept on disk, never mistaken for another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monosem.data import files, sealed
from monosem.data.jsonl import read_jsonl
from monosem.data.language_model import LMConfig
from monosem.data.text import Document, held_out_places, of_split
from monosem.data.tokenizer import encode_documents, load_tokenizer, pack_contexts, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Corpus:
    """Training rows of a text and the tokenizer they were made with.

    In ``folder``: ``tokens.npy``, rows [rows, n_ctx + 1]; ``tokenizer.json`` unless one is given; ``corpus.json``,
    which says of what they were made and is written last, so that a run killed half way leaves nothing that is taken
    for whole.

    Args:
        text: JSON lines, ``{"source", "text"}``; plain, ``.gz`` or ``.xz``.
        share: fraction of the documents of each source that is held out.
        tokenizer: an existing ``tokenizer.json``; trained on the text when absent.

    Raises:
        FileNotFoundError: no such text or tokenizer.
        ValueError: no document, a tokenizer too large for the model, or the folder holds the tokens of another text.
    """

    def __init__(
        self, text: str | Path, folder: Path, model: LMConfig, share: float, tokenizer: Path | None = None
    ) -> None:
        path = tokenizer or folder / "tokenizer.json"
        self.identity = {
            "text": _fingerprint(Path(text), "text"),
            "holdout": share,
            "n_ctx": model.n_ctx,
            "d_vocab": model.d_vocab,
            "tokenizer": _fingerprint(tokenizer, "tokenizer") if tokenizer else "trained on the text",
        }
        listed, tokens = folder / "corpus.json", folder / "tokens.npy"
        advice = f"remove {str(listed)!r}, and it is made again from the text"
        if listed.is_file():
            stored_identity, digests = sealed.read(listed, "cache", "what `monosem lm train` writes beside its tokens")
            different = [key for key, value in self.identity.items() if value != stored_identity.get(key)]
            if different:
                raise ValueError(
                    f"cache: {str(folder)!r} holds tokens made with other settings (different: "
                    f"{', '.join(different)}); wanted the same text, tokenizer, context, vocabulary and "
                    "hold-out. Choose another folder."
                )
            for made_file in (tokens, path):
                if made_file.is_file():
                    sealed.check(made_file, digests, "cache", advice)
        else:
            # The text is read once to count, and once more per use: neither it nor its tokens are held in memory.
            counts = Counter(d.source for d in _texts(text))
            if not counts:
                raise ValueError(f"text: {str(text)!r} holds no document; wanted at least one JSON line with a 'text'")
            held = held_out_places(counts, share)
            train = lambda: of_split(_texts(text), held, held_out=False)
            if not tokenizer:
                files.write_text(path, train_tokenizer((d.text for d in train()), model.d_vocab).to_str())
            self._check_size(load_tokenizer(path), model, path)
            dtype = np.uint16 if model.d_vocab <= 1 << 16 else np.int32
            rows = pack_contexts(encode_documents(load_tokenizer(path), train()), model.n_ctx, dtype)
            files.write_rows(tokens, rows, dtype, model.n_ctx + 1)
            sealed.write(
                listed, self.identity, there=[tokens.name] if tokenizer else [tokens.name, path.name], indent=2
            )
        self.tokenizer: Tokenizer = load_tokenizer(path)
        self.rows = files.read_array(tokens, "cache", advice)

    @staticmethod
    def _check_size(tokenizer: "Tokenizer", model: LMConfig, path: Path) -> None:
        if tokenizer.get_vocab_size() > model.d_vocab:
            raise ValueError(
                f"tokenizer: {str(path)!r} has {tokenizer.get_vocab_size()} entries, the model d_vocab="
                f"{model.d_vocab}; wanted no more entries than that"
            )


def _texts(path: str | Path) -> Iterator[Document]:
    """The documents of a file, of which a tokenizer is to be trained: none may be tokens or a conversation."""
    for document in read_jsonl(path):
        if not isinstance(document, Document):
            raise ValueError(
                f"text: {str(path)!r} holds a 'text' that is a list; wanted strings, to train a language model on"
            )
        yield document


def _fingerprint(path: Path, argument: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: no file {str(path)!r}; wanted an existing file")
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(1 << 22):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
