"""``monosem train``: train a dictionary on activations."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from monosem.cli import config_file, from_dataclass, options, processes, run_inputs, settings, sites, trackers
from monosem.cli.actions import Switch

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from monosem.nn import SAE
    from monosem.nn.config import SAEConfig
    from monosem.train.distributed.mesh_shard import MeshShard

Source = TypeVar("Source")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from monosem.train.config import TrainConfig

    parser.description = (
        "Train a sparse autoencoder on the activations of a language model at a hook, computed on the fly "
        "(--model, --hook, --text) or read from disk (--activations). Ctrl-C saves and stops; the same command "
        "resumes. A transcoder reads one hook and predicts another (--hook-out), a crosscoder is of several hooks or "
        "several models. Several values after --k, --l1, --l0 or --target-l0 train several dictionaries on the same "
        "batches."
    )
    data = parser.add_argument_group("activations")
    data.add_argument(
        "--activations",
        metavar="FOLDER",
        help="read activations written by `monosem harvest`, a folder or an address, instead of running a model",
    )
    sites.add_arguments(data)
    data.add_argument(
        "--stream",
        action=Switch,
        help="read and tokenize the text as training goes, in bounded memory: for texts larger than memory, and "
        "datasets of Hugging Face; needs --steps",
    )
    data.add_argument(
        "--prefetch",
        action=Switch,
        default=None,
        help="bring the next buffer of activations into memory, in a thread, while the dictionary trains on this one: "
        "twice the memory of the buffer, the same weights (default: only where the dictionary is on another device)",
    )
    options.add_contexts(data)
    options.add_skipped(data, norm=options.AS_HARVESTED)

    dictionary = parser.add_argument_group("dictionary")
    options.add_kind(dictionary, "one of the kinds below")
    dictionary.add_argument("--d-sae", type=int, default=4096, help="number of features")
    settings.add_arguments(dictionary)
    options.add_text_below(parser, settings.kinds_text)
    config_file.add_arguments(parser)

    how = parser.add_argument_group("training")
    how.add_argument("--out", required=True, metavar="FOLDER", help="where the dictionary, checkpoints and metrics go")
    how.add_argument("--epochs", type=float, default=1.0, help="passes over the activations, when --steps is not given")
    from_dataclass.add_options(
        how,
        TrainConfig,
        without=["resample"],
        steps={"default": None, "help": "optimizer steps (default: as many as --epochs give); may grow on resume"},
        sparsity_warmup={"default": None, "help": "rise of the penalty, likewise (default: the kind's, 0.05 for most)"},
        seed={"help": "seed of the weights, the order of the data, and resampling"},
    )
    how.add_argument(
        "--resample",
        choices=("auto", "paper", "never"),
        default="auto",
        help="restart dead features: auto (relu with unit rows: four times in the first half; others: never), or at "
        "the paper's steps",
    )
    how.add_argument(
        "--resume-from", type=int, metavar="STEP", help="resume from the checkpoint of this step (default: the last)"
    )
    how.add_argument("--from", dest="start", metavar="RUN", help="start a new run from the weights of RUN")
    how.add_argument("--moments", action=Switch, help="with --from: also take over Adam's moments")
    how.add_argument("--device", default="cpu", help="cpu or cuda")
    how.add_argument(
        "--time-phases",
        action=Switch,
        help="measure the phases of every step: ms_encode and so on in metrics.jsonl (`monosem profile` has a table)",
    )
    processes.add_arguments(how)
    trackers.add_arguments(how)
    how.add_argument("--quiet", action=Switch, help="no progress bar")


def run(args: argparse.Namespace) -> int:
    _refuse_what_has_no_effect(args)
    trackers.check(args)
    args.device = processes.device_of(args.device)
    with processes.joined(args) as mesh:
        return _train(args, mesh)


def _train(args: argparse.Namespace, mesh: DeviceMesh | None) -> int:
    import torch

    from monosem.nn import registry
    from monosem.nn.config import from_dict
    from monosem.train import memory
    from monosem.train.config import TrainConfig
    from monosem.train.resample_config import ResampleConfig
    from monosem.train.trainer import Trainer

    kind = registry.find(args.kind)
    if not args.activations:
        sites.check_suits(args, kind)
    swept = settings.read(args, args.kind)
    device = torch.device(args.device)
    shard = None if mesh is None else _shard_of(mesh)
    # A file that one process does not see is an error in all of them.
    source = _source(args) if shard is None else _by_all(shard, lambda: _source(args))
    shape = kind.Config.shape_of(source.widths) | {"d_sae": args.d_sae}
    configurations = [from_dict(kind.Config, shape | some) for some in swept]
    settings.refuse_without_effect(args, configurations)
    steps = args.steps if args.steps is not None else max(1, int(args.epochs * source.n_tokens) // args.batch_size)
    plans = {"paper": ResampleConfig, "auto": lambda: ResampleConfig.for_run(steps, args.batch_size, args.d_sae)}
    resampled = args.resample == "paper" or (args.resample == "auto" and configurations[0].resampled)
    config = from_dataclass.build(
        TrainConfig,
        args,
        steps=steps,
        sparsity_warmup=configurations[0].sparsity_warmup if args.sparsity_warmup is None else args.sparsity_warmup,
        resample=plans[args.resample]() if resampled else None,
    )
    cfg = configurations[0]
    rows, beside = (args.d_sae, 1) if mesh is None else processes.held(mesh, args.d_sae, device)
    needed = len(configurations) * memory.bytes_needed(
        cfg.d_in,
        rows,
        args.batch_size,
        parameters=rows * (cfg.d_in + cfg.d_out + 1) + cfg.d_out,
        ema=args.ema is not None,
        adam_state=args.adam_state,
    )
    purpose = f"training {len(configurations)} × d_sae={args.d_sae:,} of width {source.d_in}"
    if mesh is not None:
        purpose += f", of which each of {mesh.size()} processes has {rows:,} features and {beside} are on this machine,"
    memory.check_fits(needed * beside, device, purpose)
    saes = _built(configurations, args.seed, device, shard)
    if mesh is not None:
        print(processes.described(mesh, saes[0], args.batch_size))
    widths = " + ".join(map(str, source.widths))
    count = "a stream of" if source.n_tokens is None else f"{source.n_tokens:,}"
    print(f"{sites.described(source)}: {count} activations of width {widths}")
    if source.norm_limit is not None:
        print(f"left out: tokens with {source.norm_limit}")
    print(
        f"{_described(saes[0].cfg)}: {steps:,} steps of {args.batch_size:,} tokens"
        + (f", and {len(saes) - 1} more" if saes[1:] else "")
    )
    made_of = run_inputs.read_beside(args.activations) if args.activations else run_inputs.made_of(args)
    described = [{"kind": args.kind, **asdict(cfg)} for cfg in configurations]
    tracked = {
        "sae": {str(i): d for i, d in enumerate(described)} if saes[1:] else described[0],
        "train": config.to_json(),
        **made_of,
    }
    trainer = Trainer(
        saes if saes[1:] else saes[0],
        config,
        args.out,
        loggers=trackers.loggers(args, tracked),
        progress=not args.quiet,
        metadata=made_of,
        start=args.start,
        moments=args.moments,
        time_phases=args.time_phases,
        mesh=mesh,
    )
    trainer.fit(source, resume=True if args.resume_from is None else args.resume_from)
    for i, row in enumerate(trainer.last_metrics):
        print(
            f"{_described(saes[i].cfg)}: loss {row['loss']:.4g}, L0 {row['l0']:.1f}, dead {row['dead']:.1%} at the end "
            "of training"
        )
    if args.normalize != "none":
        print(f"activations were normalised ({args.normalize}) for training; the dictionary takes them as they are")
    if (record := source.norm_record()) is not None:
        share = record["left_out"] / max(1, record["of"])
        print(f"left out by their norm: {record['left_out']:,} of {record['of']:,} tokens, {share:.2%}")
    for folder in [f"{args.out}/{i}" for i in range(len(saes))] if saes[1:] else [args.out]:
        print(f"next: monosem evaluate {folder}")
    return 0


def _shard_of(mesh: DeviceMesh) -> MeshShard:
    from monosem.train.distributed import mesh as meshes

    return meshes.shard_of(mesh)


def _by_all(shard: MeshShard, act: Callable[[], Source]) -> Source:
    from monosem.distributed.ranks import Ranks

    return Ranks(shard.world).together(act)


def _built(configurations: list[SAEConfig], seed: int, device: torch.device, shard: MeshShard | None) -> list[SAE]:
    if shard is None:
        from monosem.nn import registry

        return [registry.build(cfg, seed, device) for cfg in configurations]
    from monosem.train.distributed import kinds

    return [kinds.build_shard(cfg, seed, shard, device) for cfg in configurations]


def _described(cfg) -> str:
    return f"{cfg.describe()}, {cfg.d_sae:,} features"


def _refuse_what_has_no_effect(args: argparse.Namespace) -> None:
    from monosem.train.config import check_normalisation

    check_normalisation(args.normalize)
    if args.activations:
        options.refuse(args, options.READS, f"beside --activations {args.activations}, which settles it")
    if args.tokens and args.split != "all":
        options.refuse(args, ["split"], "beside --tokens: an array is read whole")
    if args.steps is not None:
        options.refuse(args, ["epochs"], "beside --steps")
    if args.stream:
        for option in ("tokens", "activations"):
            if getattr(args, option):
                raise ValueError(
                    f"--stream: got it beside --{option}, which is read from disk; wanted --text. Leave one out."
                )
        options.refuse(args, ["contexts"], "beside --stream, which reads the text as far as the steps need")
        if args.steps is None:
            raise ValueError("--steps: got none beside --stream; wanted their number, as nobody has counted the text")
    if args.start is None:
        options.refuse(args, ["moments"], "without --from RUN, whose moments are to be taken")


def _source(args: argparse.Namespace):
    """Endless: resampling takes inputs of its own, and the number of steps ends the run."""
    if args.activations:
        from monosem.data.store import ActivationStore

        return ActivationStore(
            args.activations,
            args.batch_size,
            args.seed,
            epochs=None,
            skip_norm=args.skip_norm,
            prefetch=args.prefetch,
        )
    from monosem.data.contexts import load_contexts
    from monosem.data.harvest import ActivationStream

    models = sites.open_models(args, args.device)
    skip_norm = None if args.skip_norm == options.AS_HARVESTED else args.skip_norm
    if args.stream:
        from monosem.data.documents import Documents
        from monosem.data.streamed import StreamedActivations

        return StreamedActivations(
            models,
            sites.hooks(args),
            Documents(args.text, args.split),
            args.batch_size,
            args.seed,
            skip_positions=args.skip_positions,
            skip_tokens=args.skip_tokens,
            skip_norm=skip_norm,
            n_ctx=args.context,
            prefetch=args.prefetch,
        )
    tokens = load_contexts(
        models[0], text=args.text, tokens=args.tokens, split=args.split, contexts=args.contexts, context=args.context
    )
    return ActivationStream(
        models,
        sites.hooks(args),
        tokens,
        args.batch_size,
        args.seed,
        epochs=None,
        skip_positions=args.skip_positions,
        skip_tokens=args.skip_tokens,
        skip_norm=skip_norm,
        prefetch=args.prefetch,
    )
