"""The proxies that come with monosem, and those that a user names on the command line."""

from __future__ import annotations

import importlib
import re
import string
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from monosem.analysis.evidence.proxies.characters import Characters, Vocabulary
from monosem.analysis.evidence.proxies.kinds import CharacterSet, Function, Pattern, Proxy, Script
from monosem.analysis.scan import Rows, spread
from monosem.analysis.sources import LABELS, paper_groups, sources_read
from monosem.data.protocols import LanguageModel

# The main Unicode blocks of each script. Arabic as in the paper (U+0600–06FF, U+0750–077F) with its presentation forms.
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Arabic": ((0x0600, 0x06FF), (0x0750, 0x077F), (0x08A0, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Hebrew": ((0x0590, 0x05FF), (0xFB1D, 0xFB4F)),
    "Cyrillic": ((0x0400, 0x052F),),
    "Greek": ((0x0370, 0x03FF), (0x1F00, 0x1FFF)),
    "Han": ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2FA1F)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF)),
    "Korean": ((0xAC00, 0xD7AF), (0x1100, 0x11FF), (0x3130, 0x318F)),
    "Devanagari": ((0x0900, 0x097F),),
    "Bengali": ((0x0980, 0x09FF),),
    "Tamil": ((0x0B80, 0x0BFF),),
    "Thai": ((0x0E00, 0x0E7F),),
    "Armenian": ((0x0530, 0x058F),),
    "Georgian": ((0x10A0, 0x10FF),),
}
_LEAST = 1e-5  # a script with a smaller share of the tokens is left out: nothing could be said about it


def builtin() -> list[Proxy]:
    """Fresh copies of all of them: DNA, base64 and hexadecimal by their characters, scripts by their Unicode blocks."""
    letters = string.ascii_letters + string.digits
    sets = [
        CharacterSet("DNA", ("ACGT", "acgt"), tokens=2, binary=True),
        CharacterSet("base64", (letters + "+/",)),
        CharacterSet("hexadecimal", (string.digits + "abcdef", string.digits + "ABCDEF")),
    ]
    scripts = {name: Script(name, blocks) for name, blocks in SCRIPTS.items()}
    first = [scripts.pop("Arabic"), scripts.pop("Hebrew")]
    return [*first, *sets, *scripts.values()]


def parse(spec: str, model: LanguageModel) -> Proxy:
    """``name=REGEX`` or ``name=module:function`` as a proxy; ``DNA`` and other names of :func:`builtin` as they are.

    ``module`` is imported with the working folder on the path. A regular expression that looks like
    ``word:word`` can be written ``word[:]word``.

    Raises:
        ValueError: no name, a bad expression, or a function that is not there.
    """
    name, equals, what = spec.partition("=")
    ready = {p.name.lower(): p for p in builtin()}
    if not equals and spec.strip().lower() in ready:
        return ready[spec.strip().lower()]
    if not equals or not name.strip() or not what:
        raise ValueError(
            f"proxy: got {spec!r}; wanted NAME=REGEX or NAME=MODULE:FUNCTION, or one of "
            f"{', '.join(p.name for p in ready.values())}"
        )
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", what):
        return Pattern(name.strip(), what)
    module, _, function = what.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        loaded: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"proxy {name.strip()!r}: {error}; wanted a function as MODULE:FUNCTION, the module in this folder or "
            "installed (for a regular expression with a colon write [:])"
        ) from None
    finally:
        sys.path.remove(here)
    if not callable(loaded):
        raise ValueError(f"proxy {name.strip()!r}: {what} is no function; wanted one from tokens to scores")
    return Function(name.strip(), cast("Callable[[list[str]], Sequence[float]]", loaded), model.token_str)


class ProxySet:
    """Proxies fitted to a text; scores any tokens of the same vocabulary, generated ones too.

    Args:
        model: whose tokens they are.
        rows: the text (``tokens`` [rows, T]) that frequencies and shares are measured on.
        proxies: default all of :func:`builtin`. Of these are left out (``absent``): scripts that the text does not
            hold; and DNA and base64, whose characters any text has, unless a source of it is named so.
        max_tokens: at most about this many tokens are read for the shares of scripts, in evenly spaced rows.

    Raises:
        ValueError: two proxies of one name.
    """

    def __init__(
        self,
        model: LanguageModel,
        rows: Rows,
        proxies: Sequence[Proxy] | None = None,
        extra: Sequence[Proxy] = (),
        max_tokens: int = 2_000_000,
    ) -> None:
        asked = {p.name for p in extra}
        ready = [p for p in builtin() if p.name not in asked] if proxies is None else list(proxies)
        labelled = paper_groups(sources_read(rows)) if proxies is None else {}
        self.absent: list[str] = [
            p.name
            for p in ready
            if proxies is None and isinstance(p, CharacterSet) and p.name in LABELS and p.name not in labelled
        ]
        candidates = [*(p for p in ready if p.name not in self.absent), *extra]
        names = [p.name for p in candidates]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"proxies: {', '.join(twice)} given more than once; wanted different names")
        self.vocabulary = Vocabulary(model)
        whole = np.asarray(rows.tokens)
        tokens = whole[spread(rows, max_tokens)]
        counts = np.zeros(len(self.vocabulary))
        for start in range(0, len(whole), 4096):
            counts += np.bincount(whole[start : start + 4096].reshape(-1), minlength=len(counts))
        counts[self.vocabulary.bos_id] = 0
        frequency = np.maximum(counts, 0.5) / max(counts.sum(), 1)  # an unseen token counts as half a sighting

        def read() -> Iterable[Characters]:
            return (self.vocabulary.read(tokens[i : i + 256]) for i in range(0, len(tokens), 256))

        self.proxies: list[Proxy] = []
        for proxy in candidates:
            proxy.fit(self.vocabulary, frequency, read)
            rare = isinstance(proxy, Script) and bool(proxy.share < _LEAST) and proxy not in extra
            if rare:
                self.absent.append(proxy.name)
            else:
                self.proxies.append(proxy)

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.proxies]

    @property
    def binary(self) -> Tensor:
        """bool [P]."""
        return torch.tensor([p.binary for p in self.proxies], dtype=torch.bool, device="cpu")

    def scores(self, tokens: ArrayLike) -> Tensor:
        """The scores of rows of tokens [B, T]: float64 [P, B, T]. Above 0: more likely of this kind than not."""
        tokens = np.asarray(tokens)
        text = self.vocabulary.read(tokens)
        scores = [p.scores(text) for p in self.proxies]
        return (
            torch.from_numpy(np.stack(scores))
            if scores
            else torch.zeros(0, *tokens.shape, dtype=torch.float64, device="cpu")
        )

    def levels(self, scores: Tensor) -> Tensor:
        """What activations are correlated with: max(score, 0); of a binary proxy 1 where it is above 0; [P, ...]."""
        binary = self.binary.view(-1, *[1] * (scores.ndim - 1))
        return torch.where(binary, (scores > 0).double(), scores.clamp_min(0))
