"""Training over several processes: features sharded, tokens in parallel, on ``torch.distributed``.

``mesh_shard.py`` is what a step asks of the other processes, by ``monosem.distributed.wire``, ``mesh.py`` makes a mesh,
``peers.py`` is what the training loop needs beside the step and ``ranks.py`` what the files need, which are
``checkpoints.py`` and ``result.py``.
"""
