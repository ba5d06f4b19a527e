"""Token ids of documents that are not plain text: conversations by the tokenizer's template, and tokens as they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from monosem.data.text import ChatDocument, TokenDocument


def ids_of(document: ChatDocument | TokenDocument, model: Any) -> np.ndarray:
    """Ids, int32, without a BOS at the beginning: who packs them puts one there.

    Raises:
        ValueError: a conversation that the template refuses, a tokenizer without one, or ids that are no integers [n]
            or none of the model's.
    """
    ids = np.asarray(document.ids if isinstance(document, TokenDocument) else _laid_out(document, model))
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise ValueError(
            f"text: a document of source {document.source!a} holds {ids.dtype} {list(ids.shape)} as token ids; wanted "
            "integers [n]"
        )
    if ids.size and not 0 <= ids.min() <= ids.max() < model.d_vocab:
        raise ValueError(
            f"text: a document of source {document.source!a} holds token ids {ids.min()} to {ids.max()}; "
            f"{model.name!r} knows 0 to {model.d_vocab - 1}. Was it tokenized for another model?"
        )
    begins = ids.size and ids[0] == model.bos_id
    return ids[1:].astype(np.int32) if begins else ids.astype(np.int32)


def _laid_out(document: ChatDocument, model: Any) -> list[int]:
    tokenizer = getattr(model, "tokenizer", None)
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"text: got a conversation, and the tokenizer of {getattr(model, 'name', model)!r} has no chat template; "
            "wanted a model trained on conversations, or a column of text. Name that: FILE?column=NAME."
        )
    assert tokenizer is not None
    try:
        text = tokenizer.apply_chat_template([dict(m) for m in document.messages], tokenize=False)
    except Exception as error:  # Jinja's, and whatever a template raises by itself
        raise ValueError(
            f"text: the chat template of {model.name!r} refuses a conversation ({str(error).strip():.120}): "
            f"{list(document.messages)!r:.120}; wanted messages in the order that it knows. Leave that one out."
        ) from None
    # The template writes special tokens by their names, which here stand for the tokens.
    return tokenizer(text, add_special_tokens=False)["input_ids"]
