"""A dictionary in a repository of Hugging Face, with a page that says what it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.data import exports, files, serialization
from monosem.nn import SAE

OWN = "monosem"
_LIBRARIES = {OWN: "monosem", "sae_lens": "saelens"}  # as Hugging Face names them
_FIGURES = {  # of an evaluation: what the page calls it, and how it is written
    "l0": ("L0, active features per token", "{:.1f}"),
    "ce_loss_recovered": ("CE loss recovered", "{:.1%}"),
    "explained_variance": ("explained variance", "{:.1%}"),
    "ce_clean": ("nats per token of the model", "{:.3f}"),
    "ce_sae": ("… with the reconstruction in place", "{:.3f}"),
    "ce_zero": ("… with zeros in place", "{:.3f}"),
    "dead": ("features never active", "{:,}"),
    "tokens": ("on tokens", "{:,}"),
}


def push_to_hub(
    sae: SAE | str | Path,
    repo: str,
    name: str = "",
    *,
    format: str = OWN,
    figures: Mapping[str, Any] | None = None,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Upload a dictionary to Hugging Face, with a model card; returns the address. ``from_pretrained`` reads it.

    Args:
        sae: a dictionary, or the folder of a run. ``evaluation.json`` in the folder gives the figures.
        repo: ``"you/dictionaries"``; made when absent.
        name: the folder in it, for a repository with several dictionaries; empty: the repository itself.
        format: "monosem", or a library of ``monosem.export`` whose files are uploaded.
        figures: of an evaluation (``asdict`` of ``monosem.evaluate``'s result), in place of those of the folder.
        private: whether a new repository is private.
        revision: a branch that exists.

    Raises:
        ImportError: huggingface_hub is not installed.
        PermissionError: no token that may write there; ``hf auth login`` stores one.
        ConnectionError: Hugging Face refused, or could not be reached. Nothing is uploaded in part: it is one commit.
        ValueError: as of ``monosem.load`` and ``monosem.export``.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise ImportError("repo: huggingface_hub is not installed; wanted `pip install huggingface_hub`") from None
    if not isinstance(sae, SAE):
        figures = _figures_of(Path(sae)) if figures is None else figures
        sae = serialization.load(sae)
    name = name.strip("/")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        serialization.save(sae, here) if format == OWN else exports.export(sae, here, format)
        files.write_text(here / "README.md", card(sae, repo, name, format, figures or {}))
        try:
            api = HfApi()
            api.create_repo(repo, private=private, exist_ok=True)
            message = f"{sae.cfg.describe()}" + (f" in {name}" if name else "")
            done = api.upload_folder(
                repo_id=repo,
                folder_path=here,
                path_in_repo=name or None,
                revision=revision,
                commit_message=f"Add {message}",
            )
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in (401, 403):
                raise PermissionError(
                    f"repo: got {repo!r}, which this token may not write to, or there is none; wanted one that may. Do "
                    "`hf auth login`."
                ) from None
            raise ConnectionError(f"repo: Hugging Face refused {repo!r}: {_first_line(error)}") from None
        except Exception as error:  # of the network: of requests or httpx, by the version of huggingface_hub
            if isinstance(error, ValueError | TypeError):
                raise
            raise ConnectionError(f"repo: Hugging Face was not reached for {repo!r}: {_first_line(error)}") from None
    return str(done)


def card(sae: SAE, repo: str, name: str, format: str, figures: Mapping[str, Any]) -> str:
    """The page of a dictionary: what it is of, how it is loaded, its figures and settings."""
    known = sae.metadata
    model, hook = known.get("model"), known.get("hook_name")
    head = ["---", f"library_name: {_LIBRARIES.get(format, format)}", "tags:", "- sparse-autoencoder"]
    head += ["- mechanistic-interpretability", *([f"base_model: {model}"] if "/" in str(model) else []), "---"]
    of = f" of {' and '.join(hook) if isinstance(hook, list) else hook}" if hook else ""
    lines = [f"# {sae.cfg.describe()}", "", f"{sae.cfg.d_sae:,} features{of}{f' in {model}' if model else ''}."]
    place = f"{repo!r}, {name!r}" if name else f"{repo!r}"
    lines += ["", "```python", "import monosem as ms", "", f"sae = ms.from_pretrained({place})"]
    lines += ["code = sae.encode(x)  # values and indices of the active features", "```"]
    if format != OWN:
        lines += ["", f"The files are those of {format}, whose own loader reads them too."]
    if rows := [(title, form.format(figures[key])) for key, (title, form) in _FIGURES.items() if figures.get(key)]:
        lines += ["", "| on held-out text | |", "|---|---|", *(f"| {title} | {value} |" for title, value in rows)]
    settings = {"kind": sae.cfg.kind} | {k: v for k, v in vars(sae.cfg).items() if v is not None}
    lines += ["", "```json", json.dumps(settings, indent=1, default=str), "```", ""]
    return "\n".join([*head, "", *lines])


def _figures_of(folder: Path) -> Mapping[str, Any]:
    path = folder / "evaluation.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return record if isinstance(record, dict) else {}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
