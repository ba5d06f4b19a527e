"""An estimate of the memory that training needs, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosem.nn import SAE
from monosem.ops.memory import available_memory, human_bytes
from monosem.train.config import TrainConfig


def bytes_needed(
    d_in: int,
    d_sae: int,
    batch_size: int,
    *,
    parameters: int | None = None,
    ema: bool = False,
    built: bool = False,
    adam_state: str = "fp32",
) -> int:
    """Bytes that training takes beyond those in use now: an estimate, on the low side.

    ``parameters`` (P; None: 2·F·D + F + D, of two matrices and two biases) in fp32 once (0 if ``built``, that is
    allocated already), twice more for Adam and once for the EMA; a bf16 copy of the encoder; and six arrays of the size
    of a batch, N·D. Moments kept in bf16 take half, in int8 a quarter.
    """
    if parameters is None:
        parameters = 2 * d_sae * d_in + d_sae + d_in
    copies = (not built) + {"fp32": 2, "bf16": 1, "int8": 0.5}[adam_state] + ema
    return int(4 * parameters * copies) + 2 * d_sae * d_in + 6 * 4 * batch_size * d_in


def check_trains(saes: Sequence[SAE], configs: Sequence[TrainConfig]) -> None:
    """``check_fits`` for the training of these autoencoders, each by its configuration."""
    needed = sum(
        bytes_needed(
            sum(s.batch_widths),
            s.n_held,
            c.batch_size,
            parameters=sum(p.numel() for p in s.parameters()),
            ema=c.ema is not None,
            built=True,
            adam_state=c.adam_state,
        )
        for s, c in zip(saes, configs, strict=True)
    )
    check_fits(needed, saes[0].W_dec.device, f"training d_sae={[s.cfg.d_sae for s in saes]}")


def check_fits(needed: int, device: torch.device, purpose: str) -> None:
    """Raises ValueError when ``needed`` bytes are more than ``device`` has free; the message has both numbers."""
    if device.type not in ("cpu", "cuda"):
        return
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed > available:
        raise ValueError(
            f"d_sae: {purpose} needs about {human_bytes(needed)} more memory on {device} and {human_bytes(available)} "
            "are free; wanted a dictionary that fits. Choose a smaller d_sae (memory grows in proportion), fewer "
            "autoencoders at a time, or a machine with more memory."
        )
