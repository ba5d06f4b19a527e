"""One autoencoder with everything that changes as it learns: optimizer, dead counters, average, random numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from monosem.nn import SAE
from monosem.ops import gpu
from monosem.train.captured import CapturedStep
from monosem.train.config import TrainConfig
from monosem.train.dead import DeadTracker
from monosem.train.ema import Ema
from monosem.train.resample import InputDraw, write_neurons
from monosem.train.schedule import learning_rate, sparsity_scale
from monosem.train.step import FastStep


class Learner:
    """``step(x)`` moves the weights of ``sae`` once, by the schedule of ``cfg``."""

    def __init__(self, sae: SAE, cfg: TrainConfig) -> None:
        self.sae, self.cfg = sae, cfg
        self.fast = FastStep(sae, betas=cfg.betas, eps=cfg.eps, adam_state=cfg.adam_state, lazy_rows=cfg.lazy_rows)
        self.dead = DeadTracker(sae.cfg.d_sae, sae.W_dec.device)
        self.ema = Ema(sae, cfg.ema) if cfg.ema is not None else None
        self.generator = torch.Generator().manual_seed(cfg.seed)  # on the CPU: the same draws on every device
        self.resampled = 0
        self.captured = CapturedStep(self._counted, sae.W_dec.device) if cfg.cuda_graph else None

    def step(self, x: Tensor, step: int) -> dict[str, Tensor | float]:
        """Optimizer step number ``step`` (0 is the first) on x [N, D]; metrics are 0-dim tensors, ``lr`` a float.

        ``dead`` is the share of features that fired on none of the last ``cfg.dead_after`` tokens, after this step.
        ``tokens_redone``, only where it is not 0: ``nn.Gradients.redone``.
        """
        lr, scale = learning_rate(self.cfg, step), sparsity_scale(self.cfg, step)
        asynchronous = self.captured is not None and gpu.asynchronous(self.sae.W_dec)
        decision = self.sae.capacity.decision() if asynchronous else None
        if decision is None:
            return self._step(x, lr, scale) | {"lr": lr}
        self.fast.count_step(lr)
        at = tuple(p.data_ptr() for p in self.sae.parameters())  # a graph knows addresses
        metrics = self.captured(x, (decision, at))
        if self.captured.replaying:
            self.sae.capacity.replayed()
        return metrics | {"lr": lr}

    def _counted(self, x: Tensor) -> dict[str, Tensor]:
        """A step whose factors are on the device; autoencoders that make a ``decision`` have no penalty to scale."""
        return self._step(x, None, 1.0)

    def _step(self, x: Tensor, lr: float | None, scale: float) -> dict[str, Tensor | float]:
        dead = self.dead.dead_for_tokens(self.cfg.dead_after)
        out = self.fast(x, lr, scale, clip=self.cfg.clip, dead=dead)
        self.dead.update(out.fired, len(x))
        if self.ema is not None:
            self.ema.update()
        metrics = {name: getattr(out, name) for name in ("loss", "mse", "sparsity", "aux", "l0")}
        metrics["dead"] = self.dead.dead_for_tokens(self.cfg.dead_after).float().mean()
        if out.redone:  # rare: a row has it where it happened
            metrics["tokens_redone"] = float(out.redone)
        return metrics | ({"grad_norm": out.grad_norm} if out.grad_norm is not None else {})

    def resampling(self, steps_done: int) -> InputDraw | None:
        """The draw of inputs that the plan asks for once ``steps_done`` steps are done, or None."""
        plan = self.cfg.resample
        if plan is None or steps_done not in plan.at_steps:
            return None
        n_dead = int(self.dead.dead_for_steps(plan.window).sum())
        return InputDraw(self.sae, n_dead, plan, self.generator, sparsity_scale(self.cfg, steps_done - 1))

    def resample(self, inputs: Tensor) -> int:
        """Give the neurons dead over the window a new start from ``inputs`` [R, D]; returns how many that were."""
        plan = self.cfg.resample
        features = write_neurons(self.sae, self.dead.dead_for_steps(plan.window), inputs, plan)
        self.fast.reset_features(features)
        self.dead.reset(features)
        if self.ema is not None:
            self.ema.restart(features)
        self.resampled += len(features)
        return len(features)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a bitwise resume needs of this autoencoder, as tensors."""
        parts = {"sae": dict(self.sae.named_parameters()), "adam": self.fast.state_dict()}
        parts |= {"dead": self.dead.state_dict(), "ema": self.ema.state_dict() if self.ema is not None else {}}
        state = {
            f"{part}.{name}": tensor.detach() for part, tensors in parts.items() for name, tensor in tensors.items()
        }
        return state | {
            "generator": self.generator.get_state(),
            "resampled": torch.tensor(self.resampled, dtype=torch.int64, device="cpu"),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")}

        for name, weight in self.sae.named_parameters():
            weight.copy_(state[f"sae.{name}"])
        self.fast.load_state_dict(part("adam"))
        self.dead.load_state_dict(part("dead"))
        if self.ema is not None:
            self.ema.load_state_dict(part("ema"))
        self.generator.set_state(state["generator"])
        self.resampled = int(state["resampled"])

    def describe(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run: the dictionary's shape and how it is trained."""
        train = self.cfg.to_json()
        for name in ("log_every", "checkpoint_every", "cuda_graph"):  # these do not change what is learned
            del train[name]
        return {"sae": {"kind": self.sae.cfg.kind, **asdict(self.sae.cfg)}, "train": train}
