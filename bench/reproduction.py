"""The record of a finished reproduction, as a result: its claims and dictionaries, with the machine and the commit.

    monosem reproduce --out OUT && python bench/reproduction.py OUT --out bench/results/reproduce_small.json

Run it where and when the reproduction ran: machine and commit are those of this moment. Of an unfinished reproduction
it has the claims that are there, and names what is missing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import splitting

from monosem.bench import machine
from monosem.data import files

BOUNDS = (20, 200, 1_000, 3_000, 10_000, 30_000, 100_000)


def by_density(folder: Path) -> list[dict[str, Any]]:
    """Median correlation of features with their counterpart in the other model, by the tokens that they fire on.

    Of the features whose points the page draws; bins begin at ``BOUNDS``.
    """
    stage = folder / "evidence" / "universality.json"
    if not stage.is_file():
        return []
    points = json.loads(stage.read_text(encoding="utf-8"))["points"]
    bins: dict[int, list[float]] = {}
    for tokens, r in zip(points["tokens"], points["r"], strict=True):
        bins.setdefault(max(bound for bound in BOUNDS if bound <= tokens), []).append(r)
    return [{"from": low, "features": len(rs), "median": median(rs)} for low, rs in sorted(bins.items())]


def coverage(folder: Path) -> list[dict[str, Any]]:
    """Of each kind of text: how specific and sensitive the best feature is, and those that follow it next best."""
    stage = folder / "evidence" / "proxies.json"
    if not stage.is_file():
        return []
    kept = ("index", "correlation", "specificity", "sensitivity")
    of = lambda feature: {name: feature[name] for name in kept}
    proxies = json.loads(stage.read_text(encoding="utf-8"))["proxies"]
    return [
        {"name": p["name"], "feature": of(p["feature"]), "next": [of(feature) for feature in p["companions"]]}
        for p in proxies
        if p["paper"] is not None
    ]


def base64_features(folder: Path) -> list[dict[str, Any]]:
    """Of each width: members of the family of the base64 feature, and features mostly of base64."""
    stage = folder / "evidence" / "splitting.json"
    return splitting.features(json.loads(stage.read_text(encoding="utf-8"))) if stage.is_file() else []


def record(folder: Path) -> dict[str, Any]:
    """``report.json`` of a reproduction, with the machine first; ``minutes`` is the time of all its stages."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    minutes = round(sum(report["seconds"].values()) / 60, 1)
    here = machine.describe() | {"commit": machine.commit(Path(__file__).parents[1])}
    preset = report["settings"]["preset"]["name"]
    here |= {"command": f"monosem reproduce --preset {preset}", "minutes": minutes}
    beside = {"universality_by_tokens": by_density(folder), "kinds_of_text": coverage(folder)}
    return {"machine": here} | report | beside | {"features": base64_features(folder)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of `monosem reproduce`")
    parser.add_argument("--out", type=Path, required=True, help="the JSON")
    args = parser.parse_args(argv)
    if not (args.folder / "report.json").is_file():
        parser.error(
            f"folder: {str(args.folder)!r} has no report.json; wanted a folder in which `monosem reproduce` ended"
        )
    files.write_text(args.out, splitting.text_of(record(args.folder)))


if __name__ == "__main__":
    main()
