"""Dictionaries in the files of other libraries: one short file per library, and their names here."""

from __future__ import annotations

from pathlib import Path

from monosem.data import files
from monosem.data.exports import circuit_tracer, dictionary_learning, sae_lens, sparsify
from monosem.data.exports.plain import Refused, plain
from monosem.nn import SAE

WRITERS = {
    "sae_lens": sae_lens.files_of,
    "sparsify": sparsify.files_of,
    "dictionary_learning": dictionary_learning.files_of,
    "circuit_tracer": circuit_tracer.files_of,
}


def export(sae: SAE, folder: str | Path, format: str) -> Path:
    """Write a dictionary so that another library's own loader reads it and computes the same; returns the folder.

    * ``"sae_lens"``: ``SAE.load_from_disk(folder)``. BatchTopK and Matryoshka become JumpReLU at their threshold, as
      SAELens saves its own.
    * ``"sparsify"``: ``SparseCoder.load_from_disk(folder)``. TopK and GroupMax, transcoders of TopK.
    * ``"dictionary_learning"``: ``AutoEncoderTopK.from_pretrained(folder / "ae.pt")`` and so on, by the class that
      ``config.json`` names.
    * ``"circuit_tracer"``: ``layer_N.safetensors`` of a transcoder, N from its hook, beside ``config.yaml``. Export the
      transcoder of every layer into the same folder.

    What the other library computes in another way is folded into the weights in float64. Penalties and other settings
    of the training are not written. The hook, the model and the length of contexts in ``sae.metadata`` are.

    Args:
        sae: any kind that the library has; ``monosem.load`` reads the result, too.
        folder: made when absent. Files are written whole; those of an earlier export are replaced.

    Raises:
        ValueError: no such format, or a dictionary that the library cannot represent; the message says which can be.
    """
    if format not in WRITERS:
        raise ValueError(f"format: got {format!r}; wanted one of {', '.join(WRITERS)}")
    folder = Path(folder)
    try:
        writers = WRITERS[format](plain(sae), folder)
    except Refused as refused:
        raise ValueError(f"format: {format} has no {refused}; got {sae.cfg.describe()}") from None
    folder.mkdir(parents=True, exist_ok=True)
    files.write_together({folder / name: write for name, write in writers.items()})
    return folder
