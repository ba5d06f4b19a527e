"""Rows of tokens on disk: tokenized once, never taken for those of another text."""

import pytest
import torch
from tiny import tiny_model

from monosem.data.stored_rows import stored_rows
from monosem.data.text import Document
from monosem.data.token_rows import pack_rows

MADE_OF = {"text": "abc", "split": "train"}


def rows():
    return pack_rows([Document("b", "the quick brown fox " * 40), Document("a", "over the dog " * 40)], tiny_model())


def test_made_once_and_read_back(tmp_path):
    first = stored_rows(tmp_path / "rows", MADE_OF, rows)
    again = stored_rows(tmp_path / "rows", MADE_OF, lambda: pytest.fail("made twice"))
    for got in (first, again):
        assert torch.equal(got.tokens, rows().tokens) and got.tokens.dtype == rows().tokens.dtype
        assert torch.equal(got.source, rows().source) and got.sources == ["a", "b"]


def test_rows_of_something_else_are_refused(tmp_path):
    stored_rows(tmp_path, MADE_OF, rows)
    with pytest.raises(ValueError, match=r"rows: .* holds the tokens of something else .*remove the folder"):
        stored_rows(tmp_path, MADE_OF | {"text": "xyz"}, rows)


def test_a_damaged_file_is_refused(tmp_path):
    stored_rows(tmp_path, MADE_OF, rows)
    content = bytearray((tmp_path / "source.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "source.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"source.npy.*remove the folder"):
        stored_rows(tmp_path, MADE_OF, rows)


def test_killed_before_the_end_it_is_made_again(tmp_path):
    stored_rows(tmp_path, MADE_OF, rows)
    (tmp_path / "rows.json").unlink()  # written last
    (tmp_path / "tokens.npy").write_bytes(b"half")
    assert torch.equal(stored_rows(tmp_path, MADE_OF, rows).tokens, rows().tokens)
