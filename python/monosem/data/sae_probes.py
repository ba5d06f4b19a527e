"""The labelled texts of the package ``sae-probes``: 113 binary tasks (Kantamneni et al., 2025). Only its data are read.

The package is not imported: its own dependencies, which are many, need not be there.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from monosem.data.compressed import open_unpacked
from monosem.data.nearest import did_you_mean
from monosem.data.text_spec import TextSpec

_LISTED = "probing_datasets_MASTER.csv.zst"
_BINARY = "Binary Classification"


def sae_probes(names: Sequence[str] = ()) -> dict[str, TextSpec]:
    """{name: text} of these tasks, or of all binary ones, in their order; a label is the source of a document.

    Args:
        names: such as ``"5_hist_fig_ismale"`` or ``"hist_fig_ismale"``.

    Raises:
        ImportError: the package is not installed, or pyarrow, which unpacks its files.
        ValueError: no such task.
    """
    folder = _folder()
    path = folder / _LISTED
    with path.open("rb") as opened:
        begin = opened.read(16)
    with open_unpacked(path, begin) as raw:
        records = list(csv.DictReader(raw.read().decode("utf-8").splitlines()))
    files = [Path(r["Dataset save name"]) for r in records if r["Data type"] == _BINARY]
    there = {file.stem: folder / file.with_name(f"{file.name}.zst") for file in files}
    short = {name.partition("_")[2]: name for name in there}
    chosen = []
    for name in names:
        if name not in there and name not in short:
            raise ValueError(
                f"sae_probes: got {name!r}; wanted one of its {len(there)} binary tasks, such as {next(iter(there))!r}."
                + did_you_mean(name, [*there, *short])
            )
        chosen.append(name if name in there else short[name])
    return {name: TextSpec(str(there[name]), column="prompt", source="target") for name in chosen or there}


def _folder() -> Path:
    found = find_spec("sae_probes")
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "sae_probes: the package sae-probes, whose texts were asked for, is not installed. Install it with "
            "`pip install --no-deps sae-probes`: only its data are read."
        )
    return Path(next(iter(found.submodule_search_locations))) / "data"
