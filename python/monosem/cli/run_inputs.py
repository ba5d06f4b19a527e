"""The model, hook and text of a run, stored with it so that later commands need not be given them again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from monosem.cli import options

BESIDE = "text.json"  # beside the activations of `monosem harvest`


def made_of(args: argparse.Namespace) -> dict[str, Any]:
    """The values of ``options.add_contexts``, for the metadata of a result."""
    from monosem.data import fingerprint
    from monosem.data.text_spec import parse

    settings = {"split": args.split, "contexts": args.contexts, "context": args.context}
    if hasattr(args, "skip_tokens"):
        settings |= {"skip_positions": args.skip_positions, "skip_tokens": list(args.skip_tokens)}
    if args.tokens:
        return settings | {"tokens_from": str(Path(args.tokens).resolve())}
    return settings | {"text": fingerprint.of_text(str(parse(args.text).absolute()))}


def write_beside(folder: str | Path, args: argparse.Namespace) -> None:
    """Store the inputs of harvested activations."""
    from monosem.data import remote, sealed

    sealed.write(remote.as_path(folder) / BESIDE, made_of(args))


def read_beside(folder: str | Path) -> dict[str, Any]:
    """The inputs of harvested activations; {} where an older version wrote them.

    Raises:
        ValueError: the file is damaged.
    """
    from monosem.data import remote, sealed

    path = remote.as_path(folder, "activations") / BESIDE
    if not path.is_file():
        return {}
    expected = "what `monosem harvest` wrote (removed, only the text is forgotten)"
    return sealed.read(path, "activations", expected, note=False)[0]


def subject(args: argparse.Namespace, folder: str) -> Any:
    """The dictionary in ``folder`` with its model, as ``--model`` and ``--hook`` or the run say; sets ``args.text``."""
    loaded = named(args, folder)
    recall(args, loaded)
    return loaded


def recall(args: argparse.Namespace, loaded: Any) -> None:
    """Set ``args.text``, unless given: to the text of the run, or to that of the vectors that the model stands for."""
    from monosem.data.protocols import of_texts

    if of_texts(loaded.model):
        options.own_texts(args, loaded.model)
    else:
        recall_text(args, loaded.sae.metadata)


def named(args: argparse.Namespace, folder: str) -> Any:
    """``load_subject`` with the values of ``options.add_sites``."""
    from monosem.analysis.inputs import load_subject

    where = {"device": args.device, "device_map": args.device_map}
    return load_subject(folder, args.model, args.hook, **where, hook_out=args.hook_out, source=args.source)


def recall_text(args: argparse.Namespace, metadata: dict[str, Any]) -> None:
    """Set ``args.text``, unless given, to the text that a run was trained on, and print it; its contexts likewise.

    Raises:
        FileNotFoundError: that text is no longer there.
    """
    _recall_contexts(args, metadata)
    if args.text is not None:
        return
    held = metadata.get("text")
    args.text = held.get("text", "sample") if isinstance(held, dict) else "sample"
    if "tokens_from" in metadata:
        print("text: sample; the run was trained on an array of tokens (--text names another)")
    elif isinstance(held, dict):
        _say(args, held, metadata.get("split"))


def _recall_contexts(args: argparse.Namespace, metadata: dict[str, Any]) -> None:
    recalled = []
    for name in ("context", "skip_positions", "skip_tokens"):
        held = metadata.get(name)
        if held is None or not hasattr(args, name) or name in getattr(args, "given", ()):
            continue
        now = getattr(args, name)
        if held != (list(now) if isinstance(now, tuple) else now):
            setattr(args, name, held)
            recalled.append(
                f"--{name.replace('_', '-')} {' '.join(map(str, held)) if isinstance(held, list) else held}"
            )
    if recalled:
        print(f"{', '.join(recalled)}, as trained")


def _say(args: argparse.Namespace, held: dict[str, Any], trained: str | None) -> None:
    from monosem.data import fingerprint

    try:
        changed = fingerprint.of_text(args.text)["sha256"] != held.get("sha256")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"text: {args.text!r}, on which the run was trained, no longer exists; put it back, or name another "
            "with --text (sample: the shipped text)"
        ) from None
    notes = ["its content has changed since"] if changed else []
    if getattr(args, "split", None) == "held_out" and trained == "all":
        notes.append("the run was trained on all of it, the held-out part too")
    print(f"text: {args.text}, as trained" + "".join(f"; {note}" for note in notes))


def follow_index(args: argparse.Namespace, folder: str | Path) -> None:
    """Where ``folder`` holds an index, its text is read, unless another one was given."""
    from monosem.analysis.index.build import read_meta

    if not (Path(folder) / "index.json").is_file():
        return
    notes = read_meta(Path(folder)).get("notes", {})
    for name in ("text", "split", "context"):
        if hasattr(args, name) and name not in getattr(args, "given", ()) and name in notes:
            setattr(args, name, notes[name])


def check_index(args: argparse.Namespace, meta: dict[str, Any], folder: str | Path, names: tuple[str, ...]) -> None:
    """Refuse options that contradict the inputs of an existing index.

    Args:
        names: options of ``args`` that say how an index is made: of text, split, tokens.

    Raises:
        ValueError: one of them was given and the index was made otherwise.
    """
    notes, given = meta.get("notes", {}), getattr(args, "given", ())
    for name in names:
        if name in given and not _same(name, getattr(args, name), notes, meta):
            known = {"tokens": meta["rows_read"] * meta["n_ctx"], "context": meta["n_ctx"]}
            there = known.get(name, notes.get(name, "something unknown"))
            raise ValueError(
                f"{name}: got {getattr(args, name)!r}; the index in {str(folder)!r} was made from {there!r}. Leave "
                f"--{name} out, or make another index (monosem index RUN --out FOLDER) and name it with --index."
            )


def _same(name: str, value: Any, notes: dict[str, Any], meta: dict[str, Any]) -> bool:
    from monosem.data import fingerprint

    if name == "context":
        return value == meta["n_ctx"]
    if name == "tokens":
        return min(meta["rows"], -(-value // meta["n_ctx"])) == meta["rows_read"]
    if name == "text" and "text_sha256" in notes:
        return fingerprint.of_text(value)["sha256"] == notes["text_sha256"]
    return str(value) == str(notes.get(name, value))


def index_notes(args: argparse.Namespace) -> dict[str, Any]:
    """The inputs of an index, as stored in it."""
    from monosem.data import fingerprint
    from monosem.data.text_spec import parse

    text = str(parse(args.text).absolute())
    digest = fingerprint.of_text(text)["sha256"]
    return {
        "folder": str(args.folder),
        "text": text,
        "split": args.split,
        "text_sha256": digest,
        "context": getattr(args, "context", None),
    }
