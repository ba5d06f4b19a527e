"""``monosem harvest``: write the activations of a model at a hook to disk, or several side by side."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from monosem.cli import config_file, options, processes, run_inputs, sites
from monosem.cli.actions import Switch

if TYPE_CHECKING:
    from monosem.distributed.peers import Peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run a language model over text, stop at a hook, and write the activations to a folder that `monosem train` "
        "and `monosem.data.store.ActivationStore` read. The same command resumes an interrupted "
        "harvest; damaged shards are detected by their checksums and written again."
    )
    sites.add_arguments(parser)
    options.add_contexts(parser)
    parser.add_argument("--out", required=True, help="folder for the activations, or its address: s3://BUCKET/ACTS")
    parser.add_argument(
        "--dtype", choices=("bf16", "fp32"), default="bf16", help="precision on disk; bf16 takes half the space"
    )
    options.add_skipped(parser)
    parser.add_argument("--shard-mib", type=int, default=128, help="size of a shard on disk, and the memory needed")
    processes.add_timeout(parser)
    parser.add_argument("--quiet", action=Switch, help="no progress bar")
    config_file.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    processes.place(args)
    with processes.together(args) as peers:
        return _harvest(args, peers)


def _harvest(args: argparse.Namespace, peers: Peers) -> int:
    from monosem.data import remote
    from monosem.data.contexts import load_contexts
    from monosem.data.harvest import harvest, planned_bytes
    from monosem.data.sites import Sites
    from monosem.ops.memory import human_bytes

    if args.tokens and args.split != "all":
        options.refuse(args, ["split"], "beside --tokens: an array is read whole")
    models, hooks = sites.open_models(args), sites.hooks(args)
    read = Sites(models, hooks)
    tokens = load_contexts(
        models[0], text=args.text, tokens=args.tokens, split=args.split, contexts=args.contexts, context=args.context
    )
    rows, n_ctx = tokens.shape
    size = human_bytes(planned_bytes(rows, n_ctx, sum(read.widths), args.dtype, args.skip_positions))
    print(
        f"{sites.described(read)}: {rows:,} contexts of {n_ctx} tokens, width {sum(read.widths)}, {args.dtype}: "
        f"about {size}"
    )
    store = harvest(
        models,
        hooks,
        tokens,
        args.out,
        args.dtype,
        skip_positions=args.skip_positions,
        skip_tokens=args.skip_tokens,
        shard_mib=args.shard_mib,
        progress=not args.quiet,
        skip_norm=args.skip_norm,
        peers=peers,
    )
    peers.first(lambda: run_inputs.write_beside(args.out, args))
    peers.first(lambda: config_file.write(args.out, args.as_config))
    out = remote.as_path(args.out, "out")
    on_disk = human_bytes(sum(p.stat().st_size for p in out.iterdir() if p.is_file()))
    print(f"{store.n_stored:,} activations in {len(store.index.shards)} shards, {on_disk}, in {args.out}")
    if store.norm_limit is not None:
        print(f"training will leave out tokens with {store.norm_limit}")
    print(f"next: monosem train --activations {args.out} --out runs/{out.name}")
    return 0
