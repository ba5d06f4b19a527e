"""Named workloads: shapes of the benchmarks, their data, and the least work of a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from monosem.nn import registry
from monosem.nn.config import SAEConfig


@dataclass(frozen=True)
class Workload:
    """N tokens per step, width D, F features, K active per token (ReLU: on average, at the start).

    The data are sums of K random unit directions out of F, with weights uniform in [0, 1). A dictionary starts as
    those directions (``start``), as after training, or as others (``start(trained=False)``).

    Attributes:
        density: the share of the data's entries that are not 0, after a ReLU of them less a number; 1: there is none.
        settings: of the kind, by the names of its configuration, beyond those that ``offered`` gives every kind.
    """

    n: int
    d: int
    f: int
    k: int
    kind: str = "topk"
    name: str = ""
    l1: float = 1e-4
    lr: float = 3e-4
    density: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("n", "d", "f", "k"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}; wanted an integer ≥ 1")
        if self.k > self.f:
            raise ValueError(f"k: got {self.k}; wanted at most f={self.f}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density: got {self.density!r}; wanted a share above 0, at most 1")
        unknown = sorted(set(self.settings) - set(registry.setting(self.kind, **self.settings)))
        if unknown:
            known = ", ".join(f.name for f in fields(registry.find(self.kind).Config))
            raise ValueError(f"settings: got {', '.join(unknown)}; kind {self.kind!r} has {known}")

    @property
    def fixed_k(self) -> bool:
        """Whether the kind keeps k features for any biases."""
        return bool(registry.setting(self.kind, k=self.k))

    @property
    def architecture(self) -> SAEConfig:
        """The configuration of its autoencoder: each kind takes those of the offered settings that it has."""
        return registry.configure(self.kind, self.d, self.f, **self.offered | self.settings)

    @property
    def offered(self) -> dict[str, Any]:
        """Settings for every kind that has them: comparable ones, so that about K features of a token are active."""
        prefixes = sorted({max(1, self.f >> halvings) for halvings in range(5)})
        # Beside an error that is summed over D this λ is 1, the default of dictionary_learning's trainer.
        of_l0 = {"l0_coefficient": 1 / self.d, "target_l0": self.k}
        of_threshold = {"bandwidth": 0.05, "initial_threshold": 0.05}  # numbers, which every library can read
        return {"k": self.k, "l1_coefficient": self.l1, "prefixes": prefixes} | of_l0 | of_threshold

    def with_(self, **changes: Any) -> Workload:
        """The same but for some fields."""
        return replace(self, **changes)

    def of(self, kind: str) -> Workload:
        """The same for another kind, or for one of ``VARIANTS``."""
        return self.with_(**VARIANTS.get(kind, {"kind": kind, "settings": {}}))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def job(self) -> dict[str, Any]:
        """The workload for a process that may not have monosem: also whether the number of active features is fixed,
        and all settings of the kind."""
        return self.to_json() | {"fixed_k": self.fixed_k, "settings": asdict(self.architecture)}

    def __str__(self) -> str:
        shape = f"N={self.n:,} D={self.d:,} F={self.f:,} K={self.k:,}"
        shape += f", {self.density:.0%} of the entries not 0" if self.density < 1 else ""
        return f"{self.name + ': ' if self.name else ''}{described(self.to_json())}, {shape}"

    # ---------------------------------------------------------------------------------------- data

    def directions(self, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """F random unit rows [F, D], drawn on the device: different ones on each kind of device."""
        g = torch.Generator(device).manual_seed(seed)
        rows = torch.randn(self.f, self.d, generator=g, dtype=torch.float32, device=device)
        return rows.div_(rows.norm(dim=-1, keepdim=True))

    def batches(self, count: int, directions: Tensor) -> Tensor:
        """[count, N, D]: sums of K of the directions, through a ReLU if any, on the device of the directions."""
        device = directions.device
        g = torch.Generator(device).manual_seed(1)
        batches = torch.empty(count, self.n, self.d, dtype=torch.float32, device=device)
        for x in batches:
            chosen = torch.randint(len(directions), (self.n, self.k), generator=g, device=device)
            weights = torch.rand(self.n, self.k, generator=g, dtype=torch.float32, device=device)
            x.copy_(torch.nn.functional.embedding_bag(chosen, directions, per_sample_weights=weights, mode="sum"))
            if self.density < 1:
                some = x.flatten()[: 1 << 20]
                x.sub_(some.kthvalue(round((1 - self.density) * len(some))).values).relu_()
        return batches

    def bias(self, directions: Tensor, x: Tensor) -> float:
        """The encoder bias, the same for all features, at which K of them fire on average (ReLU; 0 for TopK)."""
        if self.fixed_k:
            return 0.0
        some = x.reshape(-1, self.d)[:256]
        keep = min(self.f, 8 * self.k)  # enough of each token's largest; a token with more active would be rare
        largest = torch.cat([(part @ directions.T).topk(keep).values for part in some.split(64)]).flatten()
        return -float(largest.topk(min(len(largest), len(some) * self.k)).values[-1])

    # ---------------------------------------------------------------------------------------- what a step must do

    @property
    def product_flops(self) -> int:
        """The one product that a step cannot do without: every feature of every token."""
        return 2 * self.n * self.d * self.f

    @property
    def gather_bytes(self) -> int:
        """Rows read in fp32 for each of K entries: decode (the slopes find them in cache) and the two gradients."""
        return 3 * self.n * self.k * self.d * 4

    @property
    def rescore_bytes(self) -> int:
        """Encoder rows in fp32 of the candidates that a product of fewer bits found, at least K per token: the cost of
        exact selection."""
        return self.n * self.k * self.d * 4

    @property
    def adam_bytes(self) -> int:
        """Weights and two moments of both matrices, read and written in fp32."""
        return 2 * self.f * self.d * 24

    def state_bytes(self, product: str, adam_state: str = "fp32") -> int:
        """Bytes of the state: parameters in fp32, Adam's two moments, and the encoder as this product multiplies it."""
        moments = {"fp32": 8, "bf16": 4, "int8": 2}[adam_state] * 2 * self.f * self.d
        scales = 16 * self.f if adam_state == "int8" else 0
        copy = {"fp32": 0, "bf16": 2, "int16": 2, "sparse": 2, "int8": 1}[product] * self.f * self.d
        return 4 * 2 * self.f * self.d + 12 * (self.f + self.d) + moments + scales + copy


def described(workload: dict[str, Any]) -> str:
    """Kind and settings of a workload in JSON: ``relu (decoder_norm=free)``."""
    settings = ", ".join(f"{name}={value}" for name, value in workload.get("settings", {}).items())
    return workload["kind"] + (f" ({settings})" if settings else "")


# Measured beside the registered kinds: dictionaries that differ from them by a setting.
VARIANTS: dict[str, dict[str, Any]] = {
    "relu_free": {"kind": "relu", "settings": {"decoder_norm": "free"}},
    # As SAELens trains it: free norms, and a penalty without a target.
    "jumprelu_free": {
        "kind": "jumprelu",
        "settings": {"l0_coefficient": 3e-4, "target_l0": None, "decoder_norm": "free"},
    },
}

WORKLOADS = {
    name: Workload(*shape, name=name)
    for name, shape in {
        "tiny": (256, 64, 512, 8),
        "small": (1024, 128, 4096, 16),
        "laptop": (2048, 512, 16_384, 32),
        "gpt2": (4096, 768, 24_576, 32),
        "widest": (8192, 512, 131_072, 32),
        "million": (2048, 512, 1_048_576, 32),
        # For GPUs: the widths of Gemma 2 2B and Llama 3 8B, and a million features.
        "gemma2": (8192, 2304, 65_536, 64),
        "llama3": (8192, 4096, 131_072, 64),
        "million_gpu": (8192, 768, 1_048_576, 32),
    }.items()
}
# What a ReLU leaves of the 512 neurons of the language model that the repository ships.
WORKLOADS["neurons"] = WORKLOADS["laptop"].with_(density=0.11, name="neurons")
WORKLOADS["widest_neurons"] = WORKLOADS["widest"].with_(density=0.11, name="widest_neurons")
WORKLOADS["widest_relu"] = WORKLOADS["widest"].with_(kind="relu", k=20, name="widest_relu")
