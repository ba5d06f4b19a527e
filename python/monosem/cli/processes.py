"""Several processes that work together, under torchrun: ``torchrun --nproc-per-node P -m monosem train …``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TYPE_CHECKING

from monosem.cli import options

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from monosem.distributed.peers import Peers
    from monosem.nn import SAE

PATIENCE = 600.0


def add_arguments(parser) -> None:
    parser.add_argument(
        "--mesh",
        metavar="DATAxFEATURES",
        help="under torchrun: how many parts the tokens and the features have (default: 1xP, features alone; "
        "docs/scaling.md says when tokens pay)",
    )
    add_timeout(parser)


def add_timeout(parser) -> None:
    """``--peer-timeout``, of every command that several processes may do together."""
    parser.add_argument(
        "--peer-timeout",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="under torchrun: how long a process may take to answer before it counts as lost",
    )


def under_torchrun() -> bool:
    """Whether torchrun started this process as one of a group."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def device_of(name: str) -> str:
    """The device of this process: of several GPUs, the one of its place on the machine."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if under_torchrun() and name == "cuda" else name


def described(mesh: DeviceMesh, sae: SAE, tokens: int) -> str:
    """What each process sends per step, and why the mesh is this one; tokens per batch."""
    from monosem.train.distributed import cost

    rows, across = mesh.size(0), mesh.size(1)
    nesting = getattr(getattr(sae, "composition", None), "nesting", None)
    whole = cost.Sizes(tokens, sae.cfg.d_in, int(getattr(sae.cfg, "k", 0)), prefixes=len(nesting or [0]))
    text = f"each process sends about {cost.on_mesh(whole, rows, across) / 1e6:.3g} MB per step"
    if rows > 1 or across == 1:
        return text
    other = f"{cost.over_tokens(whole, across) / 1e6:.3g} MB"
    if cost.tokens_pay(sae.cfg.d_sae, whole, across):
        return f"{text}; --mesh {across}x1 is likely to be faster: {other}, with all features in each (docs/scaling.md)"
    return f"{text}, and has 1/{across} of the features; --mesh {across}x1: {other}, and all features in each"


def place(args: argparse.Namespace) -> None:
    """Put ``--device`` and ``--device-map`` on the device of this process."""
    for name in ("device", "device_map"):
        if getattr(args, name, None):
            setattr(args, name, device_of(getattr(args, name)))


def held(mesh: DeviceMesh, d_sae: int, device: torch.device) -> tuple[int, int]:
    """The features that a process has at most, and how many processes share the memory of its device."""
    rows = -(-d_sae // mesh.size(list(mesh.mesh_dim_names or ()).index("features")))
    return rows, 1 if device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", 1))


@contextmanager
def joined(args: argparse.Namespace) -> Iterator[DeviceMesh | None]:
    """The mesh of the processes that torchrun started; None without it. Only the first one prints.

    Raises:
        ValueError: a mesh without torchrun, or one that does not fit the number of processes.
    """
    if not under_torchrun():
        if args.mesh is not None:
            raise ValueError(
                f"--mesh: got {args.mesh} in a single process; wanted several that torchrun starts: "
                "torchrun --nproc-per-node P -m monosem train …"
            )
        _refuse_timeout(args)
        yield None
        return
    import torch
    import torch.distributed as dist

    from monosem.train.distributed import mesh

    shape = (1, int(os.environ["WORLD_SIZE"])) if args.mesh is None else mesh.parse(args.mesh)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _group("nccl" if device.type == "cuda" else "gloo", args.peer_timeout):
        made = mesh.make(shape, device.type)
        if not dist.get_rank():
            print(f"{dist.get_world_size()} processes: {shape[0]} × tokens, {shape[1]} × features", file=sys.stdout)
        yield made


@contextmanager
def together(args: argparse.Namespace) -> Iterator[Peers]:
    """The processes that torchrun started, which divide what is read among them; without it, this one alone.

    They exchange what is in memory, not on a GPU. Only the first one prints.
    """
    from monosem.distributed.peers import ALONE

    if not under_torchrun():
        _refuse_timeout(args)
        yield ALONE
        return
    from monosem.distributed import ranks

    with _group("gloo", args.peer_timeout):
        peers = ranks.of_all()
        print(f"{peers.size} processes, each a part of the text")
        yield peers


def _refuse_timeout(args: argparse.Namespace) -> None:
    options.refuse(args, ["peer_timeout"], "in a single process, which waits for nobody")


@contextmanager
def _group(backend: str, patience: float) -> Iterator[None]:
    """The group of all processes; all but the first are silent."""
    import torch.distributed as dist

    from monosem.distributed.joining import join
    from monosem.distributed.wire import timeout_of

    join(backend, timeout_of(patience))
    try:
        with ExitStack() as quiet:
            if dist.get_rank():
                sink = quiet.enter_context(open(os.devnull, "w", encoding="utf-8"))
                quiet.enter_context(redirect_stdout(sink))
            yield
    finally:
        dist.destroy_process_group()
