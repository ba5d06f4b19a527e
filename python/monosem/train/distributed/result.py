"""The result of a run on a mesh, in the files of ``monosem.save``: each process writes its rows into one file."""

from __future__ import annotations

from pathlib import Path

from monosem.data import rows_file
from monosem.data.serialization import save_by
from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.train.distributed.ranks import MeshRanks


def write(sae: SAE, folder: Path, metadata: JsonDict, peers: MeshRanks) -> None:
    """Write an autoencoder of which each process has a shard; no process holds the whole of it."""
    rows = sae.shard.rows(sae.cfg.d_sae)
    of_features = {name for name, declared in sae.declared().items() if declared.per_feature}
    tensors = {name: t.detach().cpu() for name, t in sae.state_dict().items()}
    shapes = {
        name: (t.dtype, [sae.cfg.d_sae, *t.shape[1:]] if name in of_features else list(t.shape))
        for name, t in tensors.items()
    }
    one_of_each = peers.shard.data.rank == 0

    def put(path: Path) -> None:
        for name, tensor in tensors.items():
            if name in of_features and one_of_each:
                rows_file.write(path, name, rows.start, tensor)
            elif peers.is_first:
                rows_file.write(path, name, 0, tensor)

    def together(path: Path) -> None:
        """Of the first process: make the file, and wait until every process has written its part."""
        rows_file.create(path, shapes)
        peers.objects(str(path))
        put(path)
        if failed := [words for words in peers.objects(None) if words]:
            raise OSError(None, failed[0])

    if not peers.is_first:
        place = peers.objects(None)[0]
        if place is not None:
            words = None
            try:
                put(Path(place))
            except OSError as error:
                words = f"rank {peers.rank}: {error}"
            peers.objects(words)
        peers.first(lambda: None)
        return
    reached = []

    def write_all() -> None:
        try:
            save_by(sae, folder, metadata, lambda path: (reached.append(path), together(path)))
        finally:
            if not reached:  # the others wait to learn where the file is
                peers.objects(None)

    peers.first(write_all)
