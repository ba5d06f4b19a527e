"""The sample text in two parts: one in which rare kinds are as rare as in the mixture, one that is rich in them.

Figures (how often a feature fires, the loss of a dictionary) are measured on the first; the second is for looking at
examples, and shares no document with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import mix_text

from monosem.data.text import Document
from monosem.data.tokenizer import encode_documents

RICH = {"arabic": 500, "hebrew": 400, "dna": 300, "base64": 250, "languages": 500}  # kB of each group


def two_parts(
    documents: Sequence[Document],
    groups: Sequence[mix_text.Group],
    tokenizer,
    tokens: float,
    rich: Mapping[str, float] = RICH,
) -> tuple[list[int], list[int]]:
    """Places of the documents of the mixture, and of what is left those of the groups in ``rich``, as many kB of each.

    Args:
        tokens: of the mixture, counted by ``tokenizer``.

    Raises:
        ValueError: too little text for the mixture, or for a group of ``rich``.
    """
    listed = []
    for place, (document, ids) in enumerate(zip(documents, encode_documents(tokenizer, documents), strict=True)):
        raw = document.text.encode("utf-8")
        key = hashlib.blake2b(raw, digest_size=16).digest()  # the order of choice
        listed.append(mix_text.Listed(place, document.source, len(raw), key, len(ids)))
    listed.sort(key=lambda f: f.key)
    mix_text.choose(listed, set(), groups, tokens, 0.0)
    natural = [f.place for f in listed if f.part]
    more = []
    for name, kilobytes in rich.items():
        left = [f for f in listed if not f.part and mix_text.group_of(f.source, groups).name == name]
        if (size := sum(f.size for f in left)) < kilobytes * 1000:
            raise ValueError(
                f"rich: {size / 1000:.0f} kB of {name!r} are left; wanted {kilobytes}. Add sources, or ask for less."
            )
        more += mix_text.fitting(left, kilobytes * 1000, "size")
    return sorted(natural), sorted(f.place for f in more)
