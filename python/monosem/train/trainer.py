"""The training loop: one or several autoencoders on one stream of activations."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from monosem.data.filled import FilledSource, FillingStopped, read_by
from monosem.data.folder_lock import folder_lock
from monosem.nn import SAE
from monosem.nn.config import JsonDict
from monosem.ops import scratch
from monosem.train import checkpoint, memory
from monosem.train.agreement import check_agreement
from monosem.train.batches import Activations, Batches, check_batch
from monosem.train.checkpoint import Checkpoint, under
from monosem.train.config import TrainConfig
from monosem.train.interrupt import StopRequest
from monosem.train.learner import Learner, Metrics, axes_of
from monosem.train.loggers import JsonlLogger, Logger
from monosem.train.normaliser import Normaliser
from monosem.train.peers import peers_of
from monosem.train.report import Meter, Report
from monosem.train.rng import rng_state, set_rng_state
from monosem.train.same_run import check_same_run, keep_measured, keep_older_default, rest_of
from monosem.train.start import start_from

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Trainer:
    """Trains autoencoders, resumably.

    Args:
        sae: an autoencoder, or several of the same ``d_in`` that learn from the same batches.
        config: one for all, or one each. Those of a list agree in batch_size, steps, log_every, checkpoint_every.
        folder: where checkpoints (``ckpt-<step>/``), ``metrics.jsonl`` and the result go; nothing is written if None.
            ``ms.load(folder)`` reads the result; several go to ``folder/0``, ``folder/1``, …; averaged weights
            (``TrainConfig.ema``) to ``ema`` beside each.
        loggers: see ``train/loggers.py``; None for JSON lines in ``folder``.
        progress: show a bar.
        metadata: kept with the result; the source's ``hook_name``, model and fingerprint are added by themselves.
        start: begin with the weights of the run in this folder instead of those of ``sae``; a resume goes before.
        moments: with ``start``, take Adam's moments along too.
        time_phases: measure the phases of each step; the metrics then have ``ms_encode`` and so on, means per step. The
            same weights; a GPU does not replay a graph meanwhile.
        mesh: processes that train together, each with a shard of the features and of every batch: a ``DeviceMesh`` with
            the axes "data" and "features" (docs/scaling.md). Each process makes the same call, with the same
            autoencoder and activations. The autoencoder then holds this process's features alone.

    Attributes:
        steps_done, tokens_done: of this run, resumed parts included.
        last_metrics: the last row of metrics, a dict of numbers for each autoencoder.

    Raises:
        ValueError: configurations that disagree, autoencoders of different widths, or not enough memory for Adam.
    """

    def __init__(
        self,
        sae: SAE | Sequence[SAE],
        config: TrainConfig | Sequence[TrainConfig],
        folder: str | Path | None = None,
        *,
        loggers: Sequence[Logger] | None = None,
        progress: bool = True,
        metadata: JsonDict | None = None,
        start: str | Path | None = None,
        moments: bool = False,
        time_phases: bool = False,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self._single = isinstance(sae, SAE)
        saes = [sae] if isinstance(sae, SAE) else list(sae)
        configs = [config] * len(saes) if isinstance(config, TrainConfig) else list(config)
        check_agreement(saes, configs)
        self._peers = peers_of(mesh, saes)
        memory.check_trains(saes, configs)
        self.learners = [Learner(s, c, time_phases) for s, c in zip(saes, configs, strict=True)]
        self.cfg, self.folder = configs[0], Path(folder) if folder is not None else None
        self._loggers = loggers
        self._progress, self._metadata = progress, metadata or {}
        self._like, self._widths = saes[0].W_dec, saes[0].batch_widths
        kind = self.cfg.normalize
        self._normaliser = None if kind == "none" else Normaliser(kind, self._widths, saes)
        self._meters = [Meter(each.shard) for each in saes]
        self.last_metrics: list[dict[str, float]] = []
        self.steps_done, self.tokens_done, self._seconds, self._saved_at = 0, 0, 0.0, -1
        if moments and start is None:
            raise ValueError("moments: got True without start; wanted start=RUN, whose moments are to be taken")
        self._started = None
        if start is not None:
            self._started = start_from(self.learners, start, moments, self._normaliser, self._peers)
        self._peers.agree([learner.describe() for learner in self.learners])

    def step(self, x: Tensor | Sequence[Tensor]) -> Metrics | list[Metrics]:
        """One optimizer step on x [N, d_in], any N ≥ 1; a dict of metrics, or a list of them for several autoencoders.

        Of a kind whose batches have several parts (``SAE.batch_widths``), such as a transcoder, x is the list of them,
        or one tensor with the parts side by side.

        Metrics are 0-dim device tensors; reading one synchronises. They are loss, mse, sparsity (mean over tokens of
        Σ|f|), aux, l0, dead (share of features silent for ``dead_after`` tokens), grad_norm if clipped; ``lr``, which
        is a float; and how the step was computed (``ops.step_stats.StepStats.metrics``).

        Raises:
            ValueError, TypeError: x has the wrong shape, dtype or device, or a NaN or Inf; no weight has moved.
        """
        x = check_batch(x, self._like, self._widths, self.steps_done)
        if self._normaliser is not None:
            if not self._normaliser.is_ready:
                self._normaliser.estimate([x])
            x = self._normaliser(x)
        metrics = [meter.totals(row) for meter, row in zip(self._meters, self._step(x), strict=True)]
        return metrics[0] if self._single else metrics

    def _step(self, x: Tensor) -> list[Metrics]:
        mine = self._peers.share(x, self.steps_done)
        metrics = [learner.step(mine, self.steps_done) for learner in self.learners]
        for meter, row in zip(self._meters, metrics, strict=True):
            meter.add(row)
        self.steps_done += 1
        self.tokens_done += len(x)
        return metrics

    def fit(self, activations: Activations, resume: bool | int = True) -> Trainer:
        """Train until ``config.steps`` steps are done, from the last checkpoint in ``folder`` if there is one.

        Ctrl-C (and SIGTERM) finishes the step, saves a checkpoint and stops; the same call again goes on, and ends
        with the weights, bit for bit, of a run that never stopped (same machine, same number of threads).

        A run is continued only with its own data. With more ``config.steps`` than before it follows the schedule of the
        new number, and prints so.

        Args:
            activations: an iterable of [N, d_in] batches, or of what ``step`` takes, best with ``state_dict`` and
                ``load_state_dict``
                (``ActivationStore``, ``ActivationStream``), or a tensor or array [n, d_in], which is shuffled and
                repeated. An iterable without state must give the same batches each time (with the random numbers of
                the first time); a resume skips those already used.
            resume: True: go on from the last checkpoint; a number: from the checkpoint of that step (later ones are
                renamed to ``discarded-ckpt-…``); False: refuse a folder that has checkpoints.

        Raises:
            ValueError, TypeError: a bad batch (named by its number; it moved no weight), an empty stream, a damaged
                checkpoint or one of another run or of other data, or a loss that is not finite. If the stream raises
                after the first step, a checkpoint is written before the exception leaves.
            RuntimeError: another run writes to ``folder``.
            OSError: the disk is full, for example; earlier checkpoints are unchanged.
        """
        batches = Batches(activations, self._like, self._widths, self.cfg.batch_size, self.cfg.seed)
        batches.normaliser = self._normaliser
        shown = self._progress and self._peers.is_first
        with ExitStack() as held, StopRequest() as stop, read_by(self._like.device, batches.source, shown):
            held.callback(scratch.release)
            self._peers.first(lambda: self._hold_folder(held))
            self._restore(batches, resume)
            with self._report() as report:
                while self.steps_done < self.cfg.steps and not self._peers.stopping(stop):
                    x = self._next(batches, report, stop)
                    if x is None:
                        self._log(report)
                        break
                    if self.steps_done == 0:
                        self._initialize(x)
                    self._step(x)
                    self._resample(batches)
                    report.advance(len(x))
                    if self.steps_done % self.cfg.log_every == 0 or self.steps_done == self.cfg.steps:
                        self._log(report)
                    if self.steps_done % self.cfg.checkpoint_every == 0:
                        self._save(batches, report.seconds)
                self._save(batches, report.seconds)
            if not stop.signal:
                self._export(batches)
        stop.raise_if_asked(self._farewell())
        return self

    def _hold_folder(self, held: ExitStack) -> None:
        """Be the only writer of the folder until ``held`` ends, and remove what a killed run left half written."""
        if self.folder:
            held.enter_context(folder_lock(self.folder))
            checkpoint.sweep(self.folder)

    def _next(self, batches: Batches, report: Report, stop: StopRequest) -> Tensor | None:
        source = batches.source
        if isinstance(source, FilledSource):
            source.stopping = lambda: stop.signal is not None  # filling a buffer may take minutes
        try:
            if self._normaliser is not None and not self._normaliser.is_ready:
                self._normaliser.estimate(batches.look_ahead(self._normaliser.tokens_wanted))
            self._peers.divide(source, whole=self.steps_done == 0)  # the first batch sets biases
            return next(batches, None)
        except FillingStopped:
            return None
        except Exception:
            if self.steps_done:  # no weight has moved since the last step, so this state is worth saving
                self._save(batches, report.seconds)
            raise
        finally:
            if isinstance(source, FilledSource):
                source.stopping = None  # resampling, in the middle of a step, must get all its batches

    def averaged(self, index: int = 0) -> SAE:
        """A copy of autoencoder ``index`` with the averaged weights. Raises ValueError without ``TrainConfig.ema``."""
        learner = self.learners[index]
        if learner.ema is None:
            raise ValueError("ema: got None in the configuration; wanted a decay, TrainConfig(ema=0.999) say")
        averaged = copy.deepcopy(learner.sae)
        learner.ema.copy_to(averaged)
        return self._of_raw(averaged)

    def dictionary(self, index: int = 0) -> SAE:
        """Autoencoder ``index`` as it is saved: of activations as they are.

        That is the autoencoder itself, or with ``TrainConfig.normalize`` a copy in whose weights the normalisation is
        folded; the one that is trained takes normalised activations.
        """
        return self._of_raw(self.learners[index].sae)

    def _of_raw(self, sae: SAE) -> SAE:
        if self._normaliser is None or not self._normaliser.is_ready:
            return sae
        return self._normaliser.folded(sae)

    def _initialize(self, x: Tensor) -> None:
        for learner in self.learners:
            if learner.cfg.init_bias and not learner.sae.b_dec.any():
                learner.sae.initialize(x)
            else:
                learner.sae.measure(x)
            if learner.ema is not None:
                learner.ema.restart()

    def _resample(self, batches: Batches) -> None:
        """Resample at the steps of the plan; all autoencoders due are offered the same inputs."""
        draws = [(learner, learner.resampling(self.steps_done)) for learner in self.learners]
        draws = [(learner, draw) for learner, draw in draws if draw is not None]
        if draws:
            self._peers.divide(batches.source, whole=True)
        while any(draw.missing for _, draw in draws) and (x := next(batches, None)) is not None:
            for _, draw in draws:
                draw.offer(x)
        for learner, draw in draws:
            learner.resample(draw.rows)

    def _report(self) -> Report:
        loggers = self._loggers
        if loggers is None:
            loggers = [JsonlLogger(self.folder / "metrics.jsonl")] if self.folder else []
        total = self.tokens_done + (self.cfg.steps - self.steps_done) * self.cfg.batch_size
        return Report(
            loggers if self._peers.is_first else [],
            step=self.steps_done,
            tokens=self.tokens_done,
            total=total,
            seconds=self._seconds,
            bar=self._progress and self._peers.is_first,
        )

    def _log(self, report: Report) -> None:
        if not self._meters[0].count:
            return  # this step is logged already
        self._check_finite()
        self.last_metrics = [
            meter.take() | {f"ms_{name}": ms for name, ms in learner.take_times().items()}
            for meter, learner in zip(self._meters, self.learners, strict=True)
        ]
        report.row(self.steps_done, self.tokens_done, self.last_metrics)

    def _check_finite(self) -> None:
        """Called before anything is written, so that a diverged run does not replace good checkpoints."""
        for index, meter in enumerate(self._meters):
            if not meter.finite():
                last = checkpoint.saved_steps(self.folder)[-1:] if self.folder else []
                raise ValueError(
                    f"loss: autoencoder {index} diverged (loss is NaN or Inf) before step {self.steps_done}; wanted a "
                    f"finite loss. Lower lr (now {self.learners[index].cfg.lr}), lengthen lr_warmup, or set clip=1.0; "
                    + (f"the last good checkpoint is of step {last[0]}." if last else "nothing was saved.")
                )

    def _save(self, batches: Batches, seconds: float) -> None:
        if self.folder is None or self.steps_done == self._saved_at:
            return
        self._check_finite()
        random_tensors, random_rest = rng_state()
        tensors = {f"{i}.{k}": t for i, learner in enumerate(self.learners) for k, t in learner.state_dict().items()}
        state = {
            "run": [learner.describe() for learner in self.learners],
            "batches": batches.state_dict(),
            "tokens_done": self.tokens_done,
            "seconds": seconds,
            "meters": [meter.state_dict() for meter in self._meters],
            "rng": random_rest,
            "started": self._started,
            "skip_norm": _norm_record(batches),
        }
        tensors |= {f"rng.{k}": t for k, t in random_tensors.items()}
        if self._normaliser is not None:
            tensors |= {f"normaliser.{k}": t for k, t in self._normaliser.state_dict().items()}
        if batches.start is not None:
            tensors |= {f"start.{k}": t for k, t in batches.start[0].items()}
            state["start"] = batches.start[1]
        self._peers.save(self.folder, Checkpoint(self.steps_done, tensors, state), axes_of(self.learners))
        self._saved_at = self.steps_done

    def _restore(self, batches: Batches, resume: bool | int) -> None:
        step = None if isinstance(resume, bool) else resume
        steps = self._peers.saved_steps(self.folder) if self.folder else []
        if step is None and not steps:
            return
        if self.folder is None:
            raise ValueError(f"resume: got {resume}; wanted a folder to resume from (folder is None)")
        if resume is False:
            raise ValueError(
                f"folder: {str(self.folder)!r} holds a run of {steps[-1]} steps already; wanted an empty folder, "
                "because resume=False. Call with resume=True to go on with it, or choose another folder."
            )
        saved = self._peers.load(self.folder, steps[-1] if step is None else step, axes_of(self.learners))
        for learner, run in zip(self.learners, saved.state["run"], strict=False):
            keep_measured(learner.sae, run["sae"])
            if keep_older_default(learner.sae, run["sae"]):
                print(
                    f"aux_k: this run goes on with d_in // 2 = {learner.sae.cfg.d_in // 2}, the default when it began",
                    file=sys.stderr,
                )
        grown = check_same_run([learner.describe() for learner in self.learners], saved.state["run"], self.folder)
        if self._started is not None and self._started != saved.state.get("started"):
            raise ValueError(
                f"start: {str(self.folder)!r} holds a run of {steps[-1]} steps that did not begin with "
                f"{self._started['folder']!r}; wanted an empty folder. "
                "Choose one, or leave out start (--from) to go on."
            )
        if "start" in saved.state:
            batches.start = under(saved.tensors, "start."), saved.state["start"]
        batches.load_state_dict(saved.state["batches"], repr(str(self.folder)))
        self._peers.first(partial(checkpoint.set_aside_after, self.folder, saved.step))
        if self._normaliser is not None:
            self._normaliser.load_state_dict(under(saved.tensors, "normaliser."), self._like.device)
        for i, learner in enumerate(self.learners):
            learner.load_state_dict(under(saved.tensors, f"{i}."))
            self._meters[i].load_state_dict(saved.state["meters"][i], self._like.device)
        self.steps_done = self._saved_at = saved.step
        self.tokens_done, self._seconds = saved.state["tokens_done"], saved.state["seconds"]
        self._started = saved.state.get("started")
        set_rng_state(under(saved.tensors, "rng."), saved.state["rng"])
        if grown:
            planned = saved.state["run"][0]["train"]["steps"]
            print(rest_of(self.cfg, planned, self.steps_done), file=sys.stderr)

    def _export(self, batches: Batches) -> None:
        """Write the result, for ``ms.load``; warn if the stream ended too early, as loading it will."""
        if self.folder is not None:
            self._write_result(self.folder, batches)
        if self.steps_done < self.cfg.steps:
            # Not `warn`, which shows a warning of the same line only once.
            warnings.warn_explicit(
                f"activations: the stream ended after {self.steps_done} of {self.cfg.steps} steps, the learning rate "
                "did not decay to the end; wanted more activations, or fewer steps. "
                + ("What was learned is saved as unfinished." if self.folder else "Nothing was saved: no folder."),
                RuntimeWarning,
                __file__,
                0,
            )

    def _write_result(self, run: Path, batches: Batches) -> None:
        known = {
            "hook_name": getattr(batches.source, "hook_name", None),
            "model": getattr(batches.source, "model_name", None),
            "started": self._started,
            "skip_norm": _norm_record(batches),
        }
        metadata = {name: value for name, value in known.items() if value} | self._metadata
        metadata |= {"steps": self.steps_done, "steps_planned": self.cfg.steps, "tokens": self.tokens_done}
        metadata |= {"finished": self.steps_done >= self.cfg.steps, "data": batches.fingerprint()}
        if self._normaliser is not None and self._normaliser.is_ready:
            metadata["normalize"] = self._normaliser.record()
        for i, learner in enumerate(self.learners):
            folder = run if self._single else run / str(i)
            described = metadata | {"train": learner.cfg.to_json(), "resampled": learner.resampled}
            self._peers.write_result(self.dictionary(i), folder, described)
            if learner.ema is not None:
                self._peers.write_result(self.averaged(i), folder / "ema", described)

    def _farewell(self) -> str:
        done = f"stopped after step {self.steps_done} of {self.cfg.steps}"
        if self.folder is None:
            return f"{done}; nothing was saved, because Trainer has no folder"
        return (
            f"{done}; saved in {str(checkpoint.path_of(self.folder, self.steps_done))!r}. The same call again goes on."
        )


def _norm_record(batches: Batches) -> JsonDict | None:
    return batches.source.norm_record() if isinstance(batches.source, FilledSource) else None
