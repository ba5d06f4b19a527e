"""The configuration of an autoencoder by the names of SAELens and SAEBench."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


class Metadata:
    """Where the autoencoder belongs, as SAELens 6 keeps it: what is not known is None, by attribute or ``get``."""

    def __init__(self, known: dict[str, Any]) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):  # of copying and pickling
            raise AttributeError(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass
class DenseConfig:
    """Fields of SAEBench's ``CustomSAEConfig``. SAEBench sets further attributes when it begins.

    Attributes:
        metadata: the fields of the place under SAELens 6's name for them; no field, so that records leave it out.
    """

    d_in: int
    d_sae: int
    architecture: str
    apply_b_dec_to_input: bool
    dtype: str
    device: str
    activation_fn_str: str
    activation_fn_kwargs: dict[str, Any]
    model_name: str | None = None
    hook_name: str | None = None
    hook_layer: int | None = None
    hook_head_index: int | None = None
    context_size: int | None = None
    prepend_bos: bool = True
    normalize_activations: str = "none"
    reshape_activations: str = "none"
    finetuning_scaling_factor: bool = False
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)
    dataset_path: str | None = None
    dataset_trust_remote_code: bool = True
    seqpos_slice: tuple[int | None, ...] = (None,)
    training_tokens: int = -1
    sae_lens_training_version: str | None = None
    neuronpedia_id: str | None = None

    def __post_init__(self) -> None:
        self.metadata = Metadata({name: getattr(self, name) for name in _PLACE})

    def to_dict(self) -> dict[str, Any]:
        """For records in JSON."""
        return asdict(self)


_PLACE = (
    "model_name",
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "context_size",
    "prepend_bos",
    "model_from_pretrained_kwargs",
    "dataset_path",
    "dataset_trust_remote_code",
    "seqpos_slice",
    "sae_lens_training_version",
    "neuronpedia_id",
)
