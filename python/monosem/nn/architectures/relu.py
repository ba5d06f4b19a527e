"""The paper's autoencoder: ReLU features with an L1 penalty."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monosem.nn.activations import ReLU
from monosem.nn.composed import ComposedSAE
from monosem.nn.composition import Composition
from monosem.nn.config import P_START, DecoderNorm, ReLUConfig
from monosem.nn.drawing import are_drawn
from monosem.nn.penalties import L1, Lp, NormL1
from monosem.nn.penalty_scales import PenaltyScales
from monosem.nn.registry import register

MEASURED = 1024  # tokens by which the penalty is rescaled


@register
class ReLUSAE(ComposedSAE):
    r"""``f = ReLU(W_enc·(x − b_dec) + b_enc)``, ``L = mean_D (x − x̂)² + λ·Σ f``, mean over tokens.

    The squared error is a **mean** over the D elements and the penalty a **sum** over features: λ = 0.004 here is the
    paper's 0.004, and equals 0.004·D where the squared error is summed.

    ``decoder_norm="free"``: Anthropic's recipe of April 2024, ``f = ReLU(W_enc·x + b_enc)``, x̂ as above, and
    ``L = mean_D (x − x̂)² + λ·Σ f·‖W_dec‖``: rows have any norm, b_dec is not taken off the input (unless
    ``apply_b_dec_to_input``). It starts with random decoder rows of norm 0.1 and the encoder equal to the decoder. Its
    authors scale the inputs so that the mean norm is √D, sum the error over D (their λ = 5 is 5/D here) and need no
    resampling.

    ``p`` below 1: p-annealing, ``λ·Σ f^p`` with p from 1 to its value between ``p_start`` and the end of the run. λ is
    constant; as p falls, Σ f^p grows for values below 1, so λ is chosen for the last p. With ``p_updates`` p falls by
    so many steps, and λ is rescaled at each so that the penalty stays as large (Karvonen et al. 2024, arXiv
    2408.00113): λ is then that of p = 1. They measure the ratio over the ten batches before it; here it is that of the
    first 1,024 tokens of the batch after it, encoded once more, and is kept in files and checkpoints
    (``penalty_scales``).

    Initialisation otherwise: PyTorch's Kaiming-uniform for both matrices, decoder rows then made unit;
    ``initialize(sample)`` sets ``b_dec`` to the geometric median. Dead features: ``TrainConfig(resample=...)``.

    Source: *Towards Monosemanticity* (2023), appendices "Autoencoder Architecture" and "Autoencoder Dataset and
    Basic Training".
    """

    Config = ReLUConfig
    cfg: ReLUConfig  # pyright: ignore[reportIncompatibleVariableOverride]  # set once, in __init__

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        l1_coefficient: float = 1e-3,
        decoder_norm: str = DecoderNorm.UNIT.value,
        *,
        p: float = 1.0,
        p_start: float = P_START,
        apply_b_dec_to_input: bool | None = None,
        p_updates: int | None = None,
        initial_l0: float | None = None,
        seed: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        cfg = ReLUConfig(
            d_in, d_sae, l1_coefficient, decoder_norm, p, p_start, apply_b_dec_to_input, p_updates, initial_l0
        )
        super().__init__(cfg, device, dtype)
        if not self.has_unit_rows:
            self.start_tied(seed)
            return
        if not are_drawn():
            return
        generator = None if seed is None else torch.Generator(self.W_dec.device).manual_seed(seed)
        # The paper's default Kaiming-uniform of nn.Linear: ±1/√fan_in, each matrix with its own fan-in.
        nn.init.uniform_(self.W_enc_rows, -(d_in**-0.5), d_in**-0.5, generator=generator)
        nn.init.uniform_(self.W_dec, -(d_sae**-0.5), d_sae**-0.5, generator=generator)
        self.normalize_decoder()

    def extend(self, device: torch.device | str | None, dtype: torch.dtype) -> None:
        if self.cfg.p_updates is not None:
            self.penalty_scales = PenaltyScales(self.cfg.powers, device)

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Rescale λ by a batch, where p has changed."""
        if self.cfg.p_updates is None or not self.training:
            return
        update = self.cfg.update_at(self.progress)
        if not self.penalty_scales.is_reached(update):
            x = (x if self.shard.splits_tokens else self.some(x)).reshape(-1, self.cfg.d_in)
            code = self._encoded(x[: self.shard.among_first(len(x), MEASURED)])
            self.penalty_scales.reach(update, code, self.shard)

    @property
    def has_unit_rows(self) -> bool:
        return self.cfg.decoder_norm == DecoderNorm.UNIT

    @property
    def is_centred(self) -> bool:
        return bool(self.cfg.apply_b_dec_to_input)

    @property
    def composition(self) -> Composition:
        coefficient, p = self.cfg.l1_coefficient, self.cfg.p_at(self.progress)
        if not self.has_unit_rows:
            return Composition(ReLU(), penalty=NormL1(coefficient))
        if self.cfg.p_updates is not None:
            coefficient *= self.penalty_scales.of(self.cfg.update_at(self.progress))
        return Composition(ReLU(), penalty=L1(coefficient) if p == 1 else Lp(coefficient, p))
