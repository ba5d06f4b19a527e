"""One autoencoder with everything that changes as it learns: optimizer, dead counters, average, random numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.ops import gpu
from monosem.ops.step_stats import PhaseTimes, StepStats, phase, recording
from monosem.train.captured import CapturedStep
from monosem.train.config import TrainConfig
from monosem.train.dead import DeadTracker
from monosem.train.ema import Ema
from monosem.train.resample import InputDraw, write_neurons
from monosem.train.schedule import learning_rate, sparsity_scale
from monosem.train.step import FastStep

Metrics = dict[str, Tensor | float]


UNIT = 1e-2  # a row of norm 1, as well as bf16 keeps it
SETTLED = 100  # sparse steps in a row after which a dense one is unusual: at the crossing, batches differ


def _tell_of_other_norms(sae: SAE) -> None:
    """Warn of a dictionary of another library whose decoder rows are not unit, though its kind keeps them so."""
    if not sae.has_unit_rows or "loaded_from" not in sae.metadata:
        return
    norms = sae.W_dec.detach().float().norm(dim=1)
    if bool(((norms - 1).abs() > UNIT).any()):
        warnings.warn_explicit(
            f"sae: its decoder rows have norms from {float(norms.min()):.3g} to {float(norms.max()):.3g}, as the files "
            f"of {sae.metadata['loaded_from'].get('format')} have them; a {sae.cfg.kind} is trained with rows of norm "
            "1: the first step makes them so, which changes what it computes",
            RuntimeWarning,
            __file__,
            0,
        )


class Learner:
    """``step(x)`` moves the weights of ``sae`` once, by the schedule of ``cfg``.

    Args:
        time_phases: also measure the milliseconds of each phase. The weights are the same; on a GPU steps are then
            called rather than replayed from a graph, inside which nothing can be timed.
    """

    def __init__(self, sae: SAE, cfg: TrainConfig, time_phases: bool = False) -> None:
        _tell_of_other_norms(sae)
        self.sae, self.cfg = sae.train(), cfg
        self.fast = FastStep(sae, betas=cfg.betas, eps=cfg.eps, adam_state=cfg.adam_state, lazy_rows=cfg.lazy_rows)
        self.dead = DeadTracker(sae.n_held, sae.W_dec.device)
        self.ema = Ema(sae, cfg.ema) if cfg.ema is not None else None
        self.generator = torch.Generator().manual_seed(cfg.seed)  # on the CPU: the same draws on every device
        self.resampled = 0
        self.times = PhaseTimes(sae.W_dec.device) if time_phases else None
        self._timed = 0  # steps, since the times were taken
        graph = cfg.cuda_graph and not time_phases and sae.shard.is_whole
        self.captured = CapturedStep(sae.W_dec.device) if graph else None
        self.stats = StepStats()  # of the last step that was called; a graph replays what that one did
        self._plain: dict[str, float] = {}  # its metrics that the host knows
        self._sparse_steps = 0  # in a row, up to the last

    def step(self, x: Tensor, step: int) -> Metrics:
        """Optimizer step number ``step`` (0 is the first) on x [N, D]; metrics are 0-dim tensors, ``lr`` a float.

        Of a shard the tensors are its parts: the metrics are their sums over all processes (``train.report.Meter``).

        ``dead`` is the share of features that fired on none of the last ``cfg.dead_after`` tokens, after this step.
        ``tokens_redone``, only where it is not 0: ``nn.Gradients.redone``. ``turned_dense``: 1 where a step with dense
        products follows ``SETTLED`` sparse ones. The others say how the step was computed: ``StepStats.metrics``.
        """
        self.sae.progress, self.sae.seed_and_step = step / self.cfg.steps, (self.cfg.seed, step)
        metrics = self._stepped(x, step)
        self.sae.progress = (step + 1) / self.cfg.steps
        return metrics

    def _stepped(self, x: Tensor, step: int) -> Metrics:
        lr, scale = learning_rate(self.cfg, step), sparsity_scale(self.cfg, step)
        captured = self.captured if gpu.asynchronous(self.sae.W_dec) else None
        decision = self.sae.capacity.decision() if captured is not None else None
        if captured is None or decision is None:
            return self._step(x, lr, scale) | self._plain | {"lr": lr}
        self.fast.count_step(lr)
        addresses = tuple(p.data_ptr() for p in self.sae.parameters())  # a graph is valid for these only
        metrics: Metrics = dict(captured(x, (decision, addresses, self.sae.settings_now()), self._counted))
        if captured.replaying:
            self.sae.capacity.replayed()
        return metrics | self._plain | {"lr": lr}

    def _counted(self, x: Tensor) -> dict[str, Tensor]:
        """A step whose factors are on the device; autoencoders that make a ``decision`` have no penalty to scale."""
        return self._step(x, None, 1.0)

    def _step(self, x: Tensor, lr: float | None, scale: float) -> dict[str, Tensor]:
        """The metrics that are on the device; those that are not are in ``_plain``."""
        with recording(self.times):
            phase("dead")
            dead = self.dead.dead_for_tokens(self.cfg.dead_after)
            out = self.fast(x, lr, scale, clip=self.cfg.clip, dead=dead)
            phase("dead")
            self.dead.update(out.fired, self.sae.shard.tokens(len(x)))
            if self.ema is not None:
                phase("ema")
                self.ema.update()
            phase("statistics")
            metrics = {name: getattr(out, name) for name in ("loss", "mse", "sparsity", "aux", "l0")}
            metrics["dead"] = self._share_of(self.dead.dead_for_tokens(self.cfg.dead_after))
            if out.grad_norm is not None:
                metrics["grad_norm"] = self.sae.shard.once(out.grad_norm)
            counts = out.stats.metrics()
            plain = {name: float(n) for name, n in counts.items() if not isinstance(n, Tensor)}
            if out.redone:  # rare: a row has it where it happened
                plain["tokens_redone"] = float(out.redone)
            if out.stats.dense and self._sparse_steps >= SETTLED:
                plain["turned_dense"] = 1.0
            self._sparse_steps = self._sparse_steps + 1 if out.stats.dense is False else 0
        self.stats, self._plain, self._timed = out.stats, plain, self._timed + 1
        once = self.sae.shard.once  # of these, a mesh reports the first process's
        return metrics | {name: once(n.float()) for name, n in counts.items() if isinstance(n, Tensor)}

    def take_times(self) -> dict[str, float]:
        """Milliseconds of each phase, means over the steps since the last call; {} where they are not measured."""
        if self.times is None:
            return {}
        steps, self._timed = max(1, self._timed), 0
        return {name: ms / steps for name, ms in self.times.take().items()}

    def _share_of(self, features: Tensor) -> Tensor:
        """The share of all features that these (bool) are; of a shard, its part of it."""
        shard = self.sae.shard
        if shard.is_whole:
            return features.float().mean()
        return shard.of_features(features.sum().float() / self.sae.cfg.d_sae)

    def resampling(self, steps_done: int) -> InputDraw | None:
        """The draw of inputs that the plan asks for once ``steps_done`` steps are done, or None."""
        plan = self.cfg.resample
        if plan is None or steps_done not in plan.at_steps:
            return None
        n_dead = self.sae.shard.in_features(int(self.dead.dead_for_steps(plan.window).sum()))
        return InputDraw(self.sae, n_dead, plan, self.generator, sparsity_scale(self.cfg, steps_done - 1))

    def resample(self, inputs: Tensor) -> int:
        """Restart the neurons dead over the window from ``inputs`` [R, D]; returns how many that were."""
        with recording(self.times):
            phase("resample")
            return self._resample(inputs)

    def _resample(self, inputs: Tensor) -> int:
        plan = self.cfg.resample
        if plan is None:
            raise ValueError("resample: got None in the configuration; wanted TrainConfig(resample=ResampleConfig(…))")
        features = write_neurons(self.sae, self.dead.dead_for_steps(plan.window), inputs, plan)
        self.fast.reset_features(features)
        self.dead.reset(features)
        if self.ema is not None:
            self.ema.restart(features)
        self.resampled += (restarted := self.sae.shard.in_features(len(features)))
        return restarted

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

    def axes(self) -> dict[str, int]:
        """The axis of each tensor of ``state_dict`` that counts features, where there is one."""
        per_feature = [name for name, declared in self.sae.declared().items() if declared.per_feature]
        names = [f"{part}.{name}" for part in ("sae", "adam.m", "adam.v", "ema") for name in per_feature]
        axes = dict.fromkeys([*names, "dead.tokens_since_fired", "dead.steps_since_fired"], 0)
        axes |= {f"adam.scales.{name}": 1 for name in per_feature}
        return {name: axis for name, axis in axes.items() if name in self.state_dict()}

    def describe(self) -> JsonDict:
        """The settings that a checkpoint of this run has too: those of the dictionary and of its training."""
        train = self.cfg.to_json()
        for name in ("log_every", "checkpoint_every", "cuda_graph"):  # without effect on the weights
            del train[name]
        return {"sae": {"kind": self.sae.cfg.kind, **asdict(self.sae.cfg)}, "train": train}


def axes_of(learners: Sequence[Learner]) -> dict[str, int]:
    """The axis that counts features of each tensor of a checkpoint of these, where there is one."""
    return {f"{i}.{name}": axis for i, learner in enumerate(learners) for name, axis in learner.axes().items()}
