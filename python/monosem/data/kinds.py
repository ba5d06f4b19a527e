"""The kind of a folder that a command wrote, and the commands that read it, for messages where another was expected."""

from __future__ import annotations

from pathlib import Path

from monosem.data import remote

STORE = "monosem activations"  # how index.json of a store begins; an index of a dictionary has that name too

# (files that such a folder holds, what it is, how it is read); the first that fits counts.
_KINDS = (
    (("cfg.json", "sae.safetensors"), "a dictionary", "`monosem evaluate FOLDER` and the other commands that take RUN"),
    (("model.safetensors", "config.json"), "a language model", "`--model FOLDER` or `monosem lm evaluate`"),
    (("vectors.json", "vectors.npy"), "vectors of texts", "`--model FOLDER` of `monosem train`"),
    (("tokens.npy", "corpus.json"), "tokenized text of `monosem lm train`", "`monosem lm train` with the same --out"),
    (("ckpt-*",), "an unfinished training", "the command that started it, which resumes it"),
)


def describe(folder: str | Path) -> str:
    """A sentence, with a blank before it, that says what the folder is; nothing where that is not known."""
    folder = remote.as_path(folder)
    if not folder.is_dir():
        return ""
    for needed, what, how in _KINDS:
        if all(any(folder.glob(name)) for name in needed):
            return _sentence(what, how)
    if not (folder / "index.json").is_file():
        return ""
    if is_store(folder):
        return _sentence("activations", "`monosem train --activations FOLDER`")
    return _sentence("an index of a dictionary", "`monosem features RUN`, of the dictionary beside it")


def is_store(folder: str | Path) -> bool:
    """Whether the ``index.json`` in a folder begins as that of activations does."""
    try:
        with (remote.as_path(folder) / "index.json").open(encoding="utf-8") as opened:
            return f'"{STORE}"' in opened.read(4096)
    except (OSError, ValueError):
        return False


def _sentence(what: str, how: str) -> str:
    return f" This folder holds {what}; it is read by {how}."
