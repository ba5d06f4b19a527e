"""The shapes that the arrays of an index have, given its settings: the check of an index without digests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monosem.analysis.index.stored_arrays import ADVICE, StoredArrays


def check_shapes(meta: Mapping[str, Any], arrays: StoredArrays, folder: Path) -> None:
    """ValueError, naming the file, for an array that does not belong to these settings."""
    try:
        shapes = _shapes(meta)
    except (KeyError, TypeError) as error:
        raise ValueError(f"folder: {str(folder / 'index.json')!r} is altered ({error!r}); {ADVICE}") from None
    shapes["codes.values"] = arrays.shape("codes.places") if "codes.places" in arrays else None
    for name in arrays:
        shape = arrays.shape(name)
        if (fits := shapes.get(name)) is None:
            continue
        if len(shape) != len(fits) or any(f is not None and s != f for s, f in zip(shape, fits, strict=True)):
            words = ", ".join("any" if f is None else str(f) for f in fits)
            raise ValueError(
                f"folder: {str(folder / f'{name}.npy')!r} has shape {list(shape)}; wanted [{words}], as index.json "
                f"says. It is of another index, or altered; {ADVICE}"
            )


def _shapes(meta: Mapping[str, Any]) -> dict[str, tuple[int | None, ...] | None]:
    """{name: shape}; None stands for any size."""
    s, f, d = meta["settings"], meta["d_sae"], meta["d_in"]
    sources, bins, slots, context = len(meta["sources"]), s["bins"], s["slots"], (meta["rows"], meta["n_ctx"])
    shapes: dict[str, tuple[int | None, ...] | None] = {
        "codes.places": (None,),
        "codes.starts": (f + 1,),
        "crossed.product": (f, d),
        "crossed.square": (d,),
        "crossed.sum": (d,),
        "levels.counts": (f, None, bins),
        "levels.upper": (f,),
        "maximum": (f,),
        "moments.active": (f, sources),
        "moments.mass": (f, sources),
        "moments.square": (f,),
        "moments.tokens": (sources,),
        "partners.active": (f,),
        "words.floor": (f,),
        "tokens": (),
        "text.source": context,
        "text.tokens": context,
    }
    shapes |= {f"partners.{name}": (f, None) for name in ("counts", "ids")}
    shapes |= {f"words.{name}": (f, slots) for name in ("counts", "ids", "missed", "sums")}
    for kind, size in (("top", s["top"]), ("random", s["random"])):
        shapes |= {f"{kind}.{name}": (f, size) for name in ("places", "values")}
    return shapes | {f"levels.sample.{name}": (f * bins, s["each"]) for name in ("places", "values")}
