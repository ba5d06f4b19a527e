"""What test_distributed.py runs on meshes of 2 and of 4 processes; each writes down what came out.

    python distributed_worker.py FOLDER

It forks them, so that PyTorch is imported once.
"""

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

import monosem as ms
from monosem.data.synthetic import SyntheticDictionary
from monosem.distributed.wire import timeout_of
from monosem.nn.architectures import hierarchical_topk
from monosem.nn.config import from_dict
from monosem.ops.capacity import EncoderInputs
from monosem.train.distributed import kinds, mesh

D, F, TOKENS = 16, 51, 67  # neither is divided by 2 or 4
MESHES = {2: ("1x2", "2x1"), 4: ("2x2", "1x4")}
LONG, LONGER = 200, ("1x2",)
FILED = ("topk", "topk averaged")  # cases with a folder
CONFIG = ms.TrainConfig(lr=1e-3, batch_size=TOKENS, steps=12, log_every=3, checkpoint_every=4, dead_after=200)
RESAMPLED = ms.ResampleConfig(at_steps=(6,), window=1, n_inputs=80)


def with_silent(sae):
    """Some features never fire, so that there are some to restart."""
    with torch.no_grad():
        sae.b_enc[::5] = -3.0
    return sae


MAKE = {
    "topk": lambda: ms.TopKSAE(D, F, k=4, aux_k=6, seed=0),
    "topk_every": lambda: ms.TopKSAE(D, F, k=4, aux_k=6, aux_every=2, seed=0),
    "abs_topk": lambda: ms.AbsTopKSAE(D, F, k=4, aux_k=6, seed=0),
    "batch_topk": lambda: ms.BatchTopKSAE(D, F, k=4, aux_k=6, seed=0),
    "relu": lambda: with_silent(ms.ReLUSAE(D, F, 0.2, seed=0)),
    "relu_few": lambda: ms.ReLUSAE(D, F, 0.2, initial_l0=6.0, seed=0),
    "relu_free": lambda: with_silent(ms.ReLUSAE(D, F, 3e-3, decoder_norm="free", seed=0)),
    "jumprelu": lambda: ms.JumpReLUSAE(D, F, target_l0=4.0, seed=0),
    "tanh": lambda: ms.JumpReLUSAE(D, F, form="tanh", decoder_norm="free", seed=0),
    "gated": lambda: ms.GatedSAE(D, F, seed=0),
    "matryoshka": lambda: ms.MatryoshkaSAE(D, F, k=4, aux_k=6, prefixes=(5, 20, F), seed=0),
    "matryoshka_relu": lambda: ms.MatryoshkaSAE(D, F, activation="relu", prefixes=(5, 20, F), seed=0),
    "matryoshka_topk": lambda: ms.MatryoshkaSAE(D, F, k=4, aux_k=6, activation="topk", prefixes=(5, 20, F), seed=0),
    "matryoshka_abs": lambda: ms.MatryoshkaSAE(D, F, k=4, aux_k=6, activation="abs_topk", prefixes=(5, 20, F), seed=0),
    "hierarchical_topk": lambda: ms.HierarchicalTopKSAE(D, F, k=4, aux_k=6, budgets=(1, 3, 4), seed=0),
    "group_max": lambda: ms.GroupMaxSAE(D, 48, k=4, aux_k=6, seed=0),
    "p_updates": lambda: ms.ReLUSAE(D, F, 0.02, p=0.5, p_start=0.1, p_updates=4, seed=0),
    "transcoder": lambda: ms.Transcoder(D // 2, D // 2, F, k=4, skip=True, seed=0),
    "crosscoder": lambda: ms.Crosscoder(D, F, n_sources=2, activation="relu", seed=0),
}
# Beside the plain run of every kind: settings that have a sum of their own over features or tokens.
VARIANTS = {
    "topk clipped": ("topk", {"clip": 0.01}),
    "topk averaged": ("topk", {"ema": 0.9, "adam_state": "int8"}),
    "topk normalised": ("topk", {"normalize": "mean_norm"}),
    "relu_free whitened": ("relu_free", {"normalize": "whiten"}),
    "topk short moments": ("topk", {"adam_state": "bf16"}),
    "topk lazy": ("topk", {"lazy_rows": True}),
    "topk resampled": ("topk", {"resample": RESAMPLED}),
    "relu resampled": ("relu", {"resample": RESAMPLED}),
    "relu_few resampled": ("relu_few", {"resample": RESAMPLED}),
    "relu_free resampled": ("relu_free", {"resample": RESAMPLED}),
    "hierarchical_topk chunked": ("hierarchical_topk", {}),
}

ROUNDED = ("topk averaged", "topk short moments")
EVERYWHERE = ["hierarchical_topk", "group_max", "p_updates"]
ELSEWHERE = ["abs_topk", "matryoshka", "gated", "jumprelu", "transcoder", "topk clipped", "topk resampled"]
ELSEWHERE += ["topk averaged", "topk lazy", "matryoshka_topk", *EVERYWHERE]  # on both axes at once


def kind_and_config(case):
    kind, changes = VARIANTS.get(case, (case, {}))
    return kind, replace(CONFIG, **changes)


def source(tokens=TOKENS):
    return SyntheticDictionary(D, 32, 3, batch_size=tokens, noise=0.02)


class Curve:
    """A logger that keeps the loss, L0, AuxK loss and share of dead features."""

    def __init__(self):
        self.rows = []

    def start(self, step):
        pass

    def log(self, step, row):
        self.rows.append([row[name] for name in ("loss", "mse", "sparsity", "l0", "aux", "dead")])

    def close(self):
        pass


def trained(case, folder=None, shape=None, steps=None, resume=True):
    """(trainer, curve) of a case; on a mesh, or in this process alone."""
    kind, config = kind_and_config(case)
    hierarchical_topk.BYTES = 20 * 3 * D * 4 if case.endswith("chunked") else 256 << 20  # 20 of 67 tokens
    config = config if steps is None else replace(config, steps=steps, dead_after=10**6)  # AuxK has nothing to do
    curve, sae = Curve(), MAKE[kind]()
    trainer = ms.Trainer(sae, config, folder, loggers=[curve], progress=False, mesh=shape)
    trainer.fit(source(), resume=resume)
    return trainer, curve.rows


def tied(kind):
    """Encoder rows and tokens of small integers: most pre-activations have an equal."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda *shape: torch.randint(-2, 3, shape, generator=generator).float()
    x, sae = draw(40, D), MAKE[kind]()
    with torch.no_grad():
        sae.W_enc_rows.copy_(draw(F, D))
    return x, sae


def chosen(sae, x):
    """The dense code [N, F here] of a batch as a step chooses it."""
    with torch.no_grad():
        inputs = EncoderInputs(x, sae.W_enc_rows, sae.b_enc, shard=sae.shard)
        code = sae.composition.activation.choose(inputs, {})
    return code.to_dense()


def selections(where):
    """The codes of tied pre-activations, put together from all shards."""
    found = {}
    for kind in ("topk", "abs_topk", "batch_topk"):
        x, sae = tied(kind)
        kinds.keep_shard(sae, mesh.shard_of(where))
        for again in range(3):  # BatchTopK guesses from the second batch on
            parts = sae.shard.world.objects(chosen(sae, sae.shard.share(x)))
            rows, across = sae.shard.data.size, sae.shard.features.size
            of_rows = [torch.cat(parts[r * across : (r + 1) * across], 1) for r in range(rows)]
            found[f"{kind} {again}"] = torch.cat(of_rows)
    return found


def refused(act):
    try:
        act()
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        return str(error)
    return None


def errors(where, rank):
    """What is said of kinds and settings that do not go."""
    from monosem.nn.registry import build

    def of(kind, **settings):
        sae = build(from_dict(ms.nn.KINDS[kind].Config, {"d_in": D, "d_sae": 51} | settings), 0)
        return refused(lambda: ms.Trainer(sae, CONFIG, mesh=where))

    half = MAKE["topk"]()
    trainer = ms.Trainer(half, CONFIG, mesh=where)
    x = next(iter(source()))
    return {
        "group_max": of("group_max", k=3),
        "seed": refused(lambda: ms.Trainer(ms.TopKSAE(D, F, k=4, seed=rank), CONFIG, mesh=where)),
        "config": refused(lambda: ms.Trainer(MAKE["topk"](), replace(CONFIG, lr=1e-3 * (1 + rank)), mesh=where)),
        "mesh": refused(lambda: mesh.make((3, 5))),
        "no mesh": refused(lambda: ms.Trainer(MAKE["topk"](), CONFIG, mesh="1x2")),
        "encode": refused(lambda: half.encode(x)),
        "loss": refused(lambda: half.loss(x)),
        "without": refused(lambda: ms.Trainer(half, CONFIG)),
        "batch": refused(lambda: trainer.step(x + rank)),
        "tokens": refused(lambda: trainer.step(x[: 10 + rank])),
    }


def initial(where):
    """Weights that are drawn in shards."""
    found = {}
    for kind in ("topk", "relu", "transcoder"):
        sae = kinds.build_shard(MAKE[kind]().cfg, 3, mesh.shard_of(where))
        rows = sae.shard.features.objects([sae.W_enc_rows.detach(), sae.W_dec.detach()])
        found[kind] = [torch.cat(parts) for parts in zip(*rows, strict=True)]
    return found


def few_tokens(where):
    """Weights after batches that leave some ranks of the data axis without a token."""
    sae = MAKE["topk"]()
    trainer = ms.Trainer(sae, CONFIG, mesh=where)
    for tokens in (1, 5, 2, 3):
        trainer.step(next(iter(source(tokens))))
    return weights(trainer)


def cases(shape):
    """All of them on one mesh; on the others, kinds that differ in what they exchange there."""
    return {
        "1x2": [case for case in [*MAKE, *VARIANTS] if case not in ELSEWHERE] + EVERYWHERE,
        "2x1": ["topk", "batch_topk", *EVERYWHERE],
        "2x2": ELSEWHERE,
        "1x4": ["topk", "batch_topk", "relu resampled", *EVERYWHERE],
    }[shape]


def weights(trainer):
    """Name: (the parameter here, whether it has an entry per feature)."""
    sae = trainer.dictionary()
    per_feature = sae.declared()
    return {n: (p.detach().clone(), per_feature[n].per_feature) for n, p in sae.named_parameters()}


def run(rank, size, folder):
    import distributed_extra as extra

    store = dist.FileStore(str(folder / f"store.{size}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout_of(300))
    for shape in MESHES[size]:
        where, out = mesh.make(mesh.parse(shape)), folder / shape
        record = {"curves": {}, "weights": {}, "selections": selections(where), "initial": initial(where)}
        record["errors"], record["few"] = errors(where, rank), few_tokens(where)
        record["errors"]["version"] = extra.other_version(where, rank)
        record["several"] = extra.several(where)
        record["bytes"], record["exchanges"] = extra.bytes_per_step(where), extra.exchanges(where)
        for case in cases(shape):
            trainer, record["curves"][case] = trained(case, out / case if case in FILED else None, where)
            record["weights"][case] = weights(trainer)
        long = trained("topk", None, where, LONG if shape in LONGER else 12)[0]
        record["long"] = weights(long)
        record["sent"] = {name: getattr(long.learners[0].sae.shard, name).sent for name in ("features", "data")}
        if "topk averaged" in cases(shape):  # once more from step 8 on
            resumed = trained("topk averaged", out / "topk averaged", where, resume=8)[0]
            record["resumed"] = weights(resumed)
        extra.written(folder, f"{shape}.{rank}.pt", record)
    for shape in MESHES[size]:
        if shape in extra.RESUMED:
            extra.changed(mesh.make(mesh.parse(shape)), shape, rank, folder)
    if size == 2:
        lose_the_last(mesh.make((1, 2)), rank, folder)
    dist.destroy_process_group()


def lose_the_last(where, rank, folder):
    """Rank 1 ends in the middle of training, without a word; rank 0 writes down what it is told."""
    trainer, x = ms.Trainer(MAKE["topk"](), CONFIG, mesh=where), next(iter(source()))
    trainer.step(x)
    if rank:
        os._exit(0)
    said = refused(lambda: trainer.step(x))
    (folder / "lost").write_text(str(said))
    os._exit(0)


def forked(act, ranks, folder):
    """A process for each rank, which ends after ``act(rank, folder)``; their numbers."""
    children = []
    for rank in range(ranks):
        if child := os.fork():
            children.append(child)
            continue
        try:
            act(rank, folder)
        except BaseException:
            (folder / f"failed.{ranks}.{rank}").write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    return children


def kill_and_restart(rank, folder):
    import distributed_extra as extra

    for act in (extra.killed, extra.restarted):
        for child in forked(act, 2, folder):
            os.waitpid(child, 0)


def main():
    import distributed_extra as extra

    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    children = []
    for size in MESHES:
        children += forked(lambda rank, where, size=size: run(rank, size, where), size, folder)
    children += forked(extra.hang, 4, folder) + forked(kill_and_restart, 1, folder)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    sys.modules["distributed_worker"] = sys.modules["__main__"]  # what distributed_extra imports is this module
    main()
