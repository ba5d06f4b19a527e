"""A dictionary in a repository of Hugging Face, or in a folder that is a copy of one."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import torch

from monosem.data import serialization
from monosem.data.nearest import did_you_mean
from monosem.nn import SAE

_WEIGHTS = (".pt", ".pth", ".npz", ".safetensors")
_RECORDS = (".json", ".yaml")
# Weights by their usual names, which are taken though others (of optimizers, statistics) stand beside them.
_NAMED = (
    "sae.safetensors",
    "sae_weights.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "checkpoints/final.safetensors",
)
_SHOWN = 6
_TIMEOUT = 20.0  # seconds, after which Hugging Face counts as out of reach


def from_pretrained(
    repo: str | Path,
    name: str = "",
    device: str | torch.device = "cpu",
    *,
    revision: str | None = None,
    k: int | None = None,
    input_scale: float | None = None,
    inputs_normalised: bool | None = False,
) -> SAE:
    """A dictionary of Hugging Face, in any format that ``monosem.load`` reads.

    Args:
        repo: a repository (``"google/gemma-scope-2b-pt-res"``), of which the files of this dictionary alone are
            downloaded; or a folder that is a copy of one.
        name: the folder or file in it (``"layer_12/width_16k/average_l0_82"``); empty: the repository itself.
        revision: a branch, tag or commit.
        k, input_scale, inputs_normalised: as of ``monosem.load``.

    Raises:
        FileNotFoundError: nothing of that name; no such repository; or it cannot be reached and is not in the cache.
        ImportError: huggingface_hub is not installed.
        ValueError: as of ``monosem.load``.
    """
    name = name.strip("/")
    if (root := Path(repo)).is_dir():
        if revision is not None:
            raise ValueError(f"revision: got {revision!r}; {str(repo)!r} is a folder here. Leave it out.")
        if not (root / name).exists():
            raise _missing(
                str(repo), name, [str(p.relative_to(root).as_posix()) for p in root.rglob("*") if p.is_file()]
            )
    else:
        root = _download(str(repo), name, revision)
    given = {"k": k, "input_scale": input_scale, "inputs_normalised": inputs_normalised}
    sae = serialization.load(root / name, device, **given)
    origin = {"repository": str(repo), "name": name} | ({} if revision is None else {"revision": revision})
    sae.metadata["loaded_from"] = sae.metadata.get("loaded_from", {}) | origin
    return sae


def needed(files: Iterable[str], name: str) -> list[str]:
    """The files of a repository that make up one dictionary: its weights, and the records in its folder and above.

    Empty where there is no such folder or file.

    Raises:
        ValueError: several dictionaries have that name.
    """
    files = sorted(files)
    if name in files:
        weights, folder = [name], PurePosixPath(name).parent
    else:
        folder = PurePosixPath(name)
        inside = [f for f in files if PurePosixPath(f).parent == folder and f.endswith(_WEIGHTS)]
        weights = [f for f in files if f in {str(folder / known) for known in _NAMED}] or inside
        if len(weights) > 1:
            names = ", ".join(weights[:_SHOWN]) + (", …" if len(weights) > _SHOWN else "")
            raise ValueError(
                f"name: got {name!r}, which holds {len(weights)} dictionaries: {names}; wanted one of them"
            )
    if not weights:
        return []
    above = {folder, *folder.parents}
    return [f for f in files if f in weights or (PurePosixPath(f).parent in above and f.endswith(_RECORDS))]


def _download(repo: str, name: str, revision: str | None) -> Path:
    """The folder in huggingface_hub's cache that holds the files of a dictionary."""
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError:
        raise ImportError(
            f"repo: {repo!r} is no folder here, and huggingface_hub is not installed; wanted `pip install "
            "huggingface_hub`, or a copy of the repository in a folder"
        ) from None
    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT)
        files = [file.rfilename for file in info.siblings or []]
    except Exception as error:  # of the network: of requests or httpx, by the version of huggingface_hub
        return _cached(repo, name, revision, error)
    if not (own := needed(files, name)):
        raise _missing(repo, name, files)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=own))
    except Exception as error:
        return _cached(repo, name, revision, error)


def _cached(repo: str, name: str, revision: str | None, error: Exception) -> Path:
    """What an earlier download left, where Hugging Face cannot be reached; an error where it refuses."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        wanted = f"access: accept its terms on https://huggingface.co/{repo}, then `hf auth login`"
        raise FileNotFoundError(f"repo: {repo!r} is gated; wanted {wanted}") from None
    if isinstance(error, RevisionNotFoundError):
        raise FileNotFoundError(f"revision: got {revision!r}; {repo!r} has none of that name") from None
    if isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        wanted = "a folder here, or a repository of Hugging Face that exists and that you may read"
        raise FileNotFoundError(f"repo: got {repo!r}; wanted {wanted}") from None
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    ref = cache / "refs" / (revision or "main")  # a branch or tag; else the revision is a commit
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision or "main"
    root = cache / "snapshots" / commit
    if not (root / name).exists():
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"repo: {repo!r} is no folder here, Hugging Face could not be asked ({first:.120}), and {name or repo!r} "
            "is not in its cache; wanted a network, or a copy of the repository in a folder"
        ) from None
    return root


def _missing(repo: str, name: str, files: Iterable[str]) -> FileNotFoundError:
    places = sorted({str(PurePosixPath(f).parent) for f in files if f.endswith(_WEIGHTS)} - {"."})
    there = ", ".join(places[:_SHOWN]) + (", …" if len(places) > _SHOWN else "") or "no weights at all"
    return FileNotFoundError(
        f"name: got {name!r}; {repo!r} has no such folder or file.{did_you_mean(name, places)} It has {there}"
    )
