"""The text that each entry of a vocabulary stands for: how a tokenizer spells bytes, blanks and words, decided once."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from enum import Enum
from typing import Any


class Spelling(Enum):
    """How entries that are not added words are spelled."""

    BYTE_LEVEL = "each character is a byte"  # GPT-2, Llama 3, Qwen
    METASPACE = "▁ is a blank, <0xD8> a byte where the vocabulary has all 256"  # Llama 2, T5, Gemma
    WORDPIECE = "a blank before all that does not begin with the prefix, if there is one"  # BERT; whole words
    SUFFIX = "a blank behind all that ends with the suffix"  # GPT, CLIP
    PLAIN = "as it stands"


def byte_alphabet() -> dict[str, int]:
    """Character → byte of byte-level BPE: printable bytes stand for themselves, the others for U+0100 onward."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


_BYTE_OF = byte_alphabet()
_CUT_AT_BLANKS = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer"}
_BYTE_ENTRIES = frozenset(f"<0x{b:02X}>" for b in range(256))


def _show_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)  # this handler is named for decoding only
    return "".join(f"⟨{b:02X}⟩" for b in error.object[error.start : error.end]), error.end


codecs.register_error("monosem.show_bytes", _show_bytes)


def readable(text: bytes) -> str:
    """Bytes as text; those that make no whole character are shown as ``⟨D8⟩``."""
    return text.decode("utf-8", errors="monosem.show_bytes")


class Vocabulary:
    """From token ids to the bytes of the text that they stand for.

    The bytes of the tokens of a text, laid end to end, are the text: but for one blank in front of it or behind,
    where the tokenizer puts one there, and for what it normalizes away (BERT: blanks, capitals).

    Args:
        entry: id → the entry as the vocabulary spells it, None where there is none; or its bytes, as of Qwen 1.
        size: number of ids.
        tokenizer: of the ``tokenizers`` library, or one of ``transformers``; None when there is neither.
    """

    def __init__(self, entry: Callable[[int], str | bytes | None], size: int, tokenizer: object | None = None) -> None:
        self._entry, self.size = entry, size
        backend = _backend(tokenizer)
        entries = {e for i in range(size) if isinstance(e := entry(i), str)}
        self.prefix: str | None = "##"
        self.suffix, self.blank = "</w>", "▁"
        self.spelling = self._decided(backend, entries)
        self._has_bytes = self.spelling is Spelling.METASPACE and entries.issuperset(_BYTE_ENTRIES)
        added = _added_words(backend, tokenizer).items()
        learned = _learned(backend) if self.spelling is Spelling.METASPACE else ()
        self._added = {
            i: word
            for i, word in added
            if not (self._has_bytes and word in _BYTE_ENTRIES)
            and not (self.blank in word and word in learned)  # Gemma's runs of blanks: added, and found as learned
        }

    def _decided(self, backend: Any, entries: set[str]) -> Spelling:
        decoder = _steps(backend, "decoder")
        # Without a decoder, the pre-tokenizer shows how pieces are spelled.
        kinds = {step["type"]: step for step in decoder or _steps(backend, "pre_tokenizer")}
        if "ByteLevel" in kinds:
            return Spelling.BYTE_LEVEL
        if "Metaspace" in kinds or any(_is_blank(step) for step in decoder):
            self.blank = kinds.get("Metaspace", {}).get("replacement", "▁")
            return Spelling.METASPACE
        if "BPEDecoder" in kinds:
            self.suffix = kinds["BPEDecoder"].get("suffix") or "</w>"
            return Spelling.SUFFIX
        if "WordPiece" in kinds:
            self.prefix = kinds["WordPiece"].get("prefix", "##")
            return Spelling.WORDPIECE
        if decoder:
            return Spelling.PLAIN
        # Neither: by the entries of the vocabulary.
        if entries.issuperset(_BYTE_OF):
            return Spelling.BYTE_LEVEL
        if any(e.startswith("▁") for e in entries):
            return Spelling.METASPACE
        if any(e.startswith("##") for e in entries):
            return Spelling.WORDPIECE
        if not _CUT_AT_BLANKS.isdisjoint(kinds):
            self.prefix = None
            return Spelling.WORDPIECE
        return Spelling.PLAIN

    def bytes_of(self, token: int) -> bytes:
        """The bytes of the text that a token stands for; they may cut through a character."""
        if token in self._added:
            return self._added[token].encode("utf-8", "surrogatepass")
        entry = self._entry(token)
        if entry is None:
            return f"[{token}]".encode()
        if isinstance(entry, bytes):
            return entry
        if self.spelling is Spelling.BYTE_LEVEL and all(c in _BYTE_OF for c in entry):
            return bytes(_BYTE_OF[c] for c in entry)
        if self._has_bytes and entry in _BYTE_ENTRIES:
            return bytes.fromhex(entry[3:5])
        if self.spelling is Spelling.METASPACE:
            entry = entry.replace(self.blank, " ")
        if self.spelling is Spelling.WORDPIECE:
            inner = self.prefix is not None and entry.startswith(self.prefix)
            entry = entry[len(self.prefix or "") :] if inner else " " + entry
        if self.spelling is Spelling.SUFFIX and entry.endswith(self.suffix):
            entry = entry[: -len(self.suffix)] + " "
        return entry.encode()


def _backend(tokenizer: object | None) -> Any:
    """The ``tokenizers.Tokenizer`` in it, or None."""
    for name in ("backend_tokenizer", "_tokenizer"):
        inner = getattr(tokenizer, name, None)
        if hasattr(inner, "to_str"):
            return inner
    return tokenizer if hasattr(tokenizer, "to_str") else None


def _steps(backend: Any, part: str) -> list[dict[str, Any]]:
    """The steps of its ``decoder`` or ``pre_tokenizer``."""
    state = json.loads(getattr(backend, part).__getstate__()) if getattr(backend, part, None) is not None else None
    if not state:
        return []
    return (
        state[{"decoder": "decoders", "pre_tokenizer": "pretokenizers"}[part]]
        if state["type"] == "Sequence"
        else [state]
    )


def _learned(backend: Any) -> dict[str, int]:
    """The vocabulary of its model, which added words may be in too."""
    return backend.get_vocab(with_added_tokens=False) if backend is not None else {}


def _is_blank(step: dict[str, Any]) -> bool:
    return step["type"] == "Replace" and step.get("pattern", {}).get("String") == "▁" and step.get("content") == " "


def _added_words(backend: Any, tokenizer: object | None) -> dict[int, str]:
    """Words put into the vocabulary beside what was learned, special ones among them: spelled as they stand."""
    added = (
        backend.get_added_tokens_decoder() if backend is not None else getattr(tokenizer, "added_tokens_decoder", {})
    )
    return {int(i): getattr(word, "content", str(word)) for i, word in added.items()}
