"""Several autoencoders that learn from one stream agree on what the stream decides."""

from __future__ import annotations

from monosem.nn import SAE
from monosem.train.config import TrainConfig


def check_agreement(saes: list[SAE], configs: list[TrainConfig]) -> None:
    """Raise ValueError where they do not."""
    if not saes or len(configs) != len(saes):
        raise ValueError(f"config: got {len(configs)} for {len(saes)} autoencoders; wanted one for all, or one each")
    if len({id(sae) for sae in saes}) < len(saes):
        raise ValueError("sae: got the same autoencoder twice; wanted different ones")
    for name, values in (
        ("sae.cfg.d_in", [sae.cfg.d_in for sae in saes]),
        ("sae.batch_widths", [sae.batch_widths for sae in saes]),
        ("sae device", [str(sae.W_dec.device) for sae in saes]),
        ("sae dtype", [str(sae.W_dec.dtype) for sae in saes]),
        *(
            (f"config.{n}", [getattr(c, n) for c in configs])
            for n in ("batch_size", "steps", "log_every", "checkpoint_every", "normalize")
        ),
    ):
        if len(set(values)) > 1:
            raise ValueError(f"{name}: got {values}; wanted the same for all that learn from one stream")
