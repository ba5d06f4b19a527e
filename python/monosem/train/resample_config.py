"""The plan of resampling: when, which neurons, and on how many inputs. Without PyTorch, like ``config.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ResampleConfig:
    """The paper's plan for dead neurons; the defaults are its numbers, meant for a run of 1,000,000 steps of 8,192.

    Attributes:
        at_steps: resample once these many optimizer steps are done.
        window: dead = fired in none of the last ``window`` steps.
        n_inputs: inputs on which the present loss is computed, taken from the stream of activations (see below).
        encoder_factor: norm of a new encoder row, as a share of the mean encoder norm of the neurons alive.

    The inputs are complete batches of the training stream, until there are ``n_inputs`` tokens, which are not trained
    on. The position in the data advances by them, whether or not a neuron is dead: it depends on the plan alone, so a
    resumed run sees the same data. If the stream ends early, the draw is from the inputs so far.
    """

    at_steps: tuple[int, ...] = (25_000, 50_000, 75_000, 100_000)
    window: int = 12_500
    n_inputs: int = 819_200
    encoder_factor: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "at_steps", tuple(self.at_steps))
        for name in ("window", "n_inputs"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"resample.{name}: got {getattr(self, name)!r}; wanted an integer of at least 1")
        if not self.at_steps or not all(isinstance(step, int) for step in self.at_steps):
            raise ValueError(f"resample.at_steps: got {self.at_steps!r}; wanted step numbers")
        gaps = [b - a for a, b in zip((0, *self.at_steps), self.at_steps, strict=False)]
        if min(gaps) < self.window:
            raise ValueError(
                f"resample.at_steps: got {self.at_steps} with window={self.window}; wanted rising steps at least one "
                "window apart, the first after one window: a neuron must have a whole window in which to fire"
            )
        if not self.encoder_factor > 0:
            raise ValueError(f"resample.encoder_factor: got {self.encoder_factor!r}; wanted a positive number")

    def scaled(self, scale: float, n_inputs: int | None = None) -> ResampleConfig:
        """The same plan with every interval times ``scale``; ``n_inputs`` is kept unless it is given.

        The paper resamples within the first 10 % of its steps: ``ResampleConfig().scaled(steps / 1_000_000)`` is its
        plan in proportion.
        """
        window = max(1, round(self.window * scale))
        at_steps = tuple(max(round(step * scale), window * (i + 1)) for i, step in enumerate(self.at_steps))
        return replace(self, at_steps=at_steps, window=window, n_inputs=n_inputs or self.n_inputs)

    @classmethod
    def for_run(cls, steps: int, batch_size: int, d_sae: int) -> ResampleConfig:
        """The paper's plan for a run of another length: its four times spread over the first half of the steps.

        A short run needs them later than the first 10 %, because neurons die over a number of steps, not over a share
        of the run; at 200,000 steps the times are the paper's. Each draw looks at 1 % of the run's tokens, at least at
        four inputs a feature and at most at the paper's 819,200.
        """
        n_inputs = min(cls.n_inputs, max(4 * d_sae, steps * batch_size // 100))
        return cls().scaled(steps / 200_000, n_inputs)
