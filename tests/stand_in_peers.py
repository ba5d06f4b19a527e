"""SAELens and dictionary_learning without their training: names, parameters and encoders that the entrants rely on."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn


def _batch_topk(h: Tensor, k: int) -> Tensor:
    flat = h.relu().flatten()
    chosen = flat.topk(k * len(h))
    return torch.zeros_like(flat).scatter(0, chosen.indices, chosen.values).view_as(h)


def _topk(h: Tensor, k: int) -> Tensor:
    chosen = h.relu().topk(k)
    return torch.zeros_like(h).scatter(-1, chosen.indices, chosen.values)


def _parameters(module: nn.Module, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        setattr(module, name, nn.Parameter(torch.full(shape, 7.0)))  # what is not copied in shows


# ------------------------------------------------------------------------------------------------ SAELens


class _SAE(nn.Module):
    """W_enc [d_in, d_sae], W_dec [d_sae, d_in], b_dec, and the vectors of its kind."""

    vectors: tuple[str, ...] = ("b_enc",)

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__()
        d, f = cfg.d_in, cfg.d_sae
        _parameters(self, W_enc=(d, f), W_dec=(f, d), b_dec=(d,), **dict.fromkeys(self.vectors, (f,)))
        self.cfg = cfg
        for name in ("b_mag", "r_mag"):  # SAELens starts these at 0
            if name in self.vectors:
                nn.init.zeros_(getattr(self, name))

    def process_sae_in(self, x: Tensor) -> Tensor:
        return x - self.b_dec * self.cfg.apply_b_dec_to_input

    def encode(self, x: Tensor) -> Tensor:
        h = self.process_sae_in(x) @ self.W_enc
        return self.act(h + self.b_enc) if hasattr(self, "b_enc") else self.act(h)


class StandardTrainingSAE(_SAE):
    def act(self, h: Tensor) -> Tensor:
        return h.relu()


class TopKTrainingSAE(_SAE):
    def act(self, h: Tensor) -> Tensor:
        return _topk(h * self.W_dec.norm(dim=-1), self.cfg.k)


class BatchTopKTrainingSAE(_SAE):
    def act(self, h: Tensor) -> Tensor:
        return _batch_topk(h * self.W_dec.norm(dim=-1), self.cfg.k)


class MatryoshkaBatchTopKTrainingSAE(BatchTopKTrainingSAE):
    pass


class JumpReLUTrainingSAE(_SAE):
    vectors = ("b_enc", "threshold")

    def __init__(self, cfg: SimpleNamespace) -> None:
        super().__init__(cfg)
        nn.init.zeros_(self.b_enc)

    def act(self, h: Tensor) -> Tensor:
        return h * (h > self.threshold)


class GatedTrainingSAE(_SAE):
    vectors = ("b_gate", "b_mag", "r_mag")

    def act(self, h: Tensor) -> Tensor:
        return (h + self.b_gate > 0) * (self.r_mag.exp() * h + self.b_mag).relu()


class _SAETrainer:
    def __init__(self, cfg: SimpleNamespace, sae: _SAE, data_provider: object) -> None:
        self.cfg, self.sae, self.n_training_steps = cfg, sae, 0
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=cfg.lr)

    def step(self, x: Tensor) -> SimpleNamespace:
        error = self.sae.encode(x) @ self.sae.W_dec + self.sae.b_dec - x
        loss = error.square().sum(-1).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return SimpleNamespace(loss=loss)


def _config(**defaults: object) -> type[SimpleNamespace]:
    return type("Config", (SimpleNamespace,), {"__init__": lambda self, **s: self.__dict__.update(defaults | s)})


def sae_lens() -> dict[str, ModuleType]:
    """The modules of SAELens by name, for ``sys.modules``."""
    package, config = ModuleType("sae_lens"), ModuleType("sae_lens.config")
    for sae in (
        StandardTrainingSAE,
        TopKTrainingSAE,
        BatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAE,
        JumpReLUTrainingSAE,
        GatedTrainingSAE,
    ):
        setattr(package, sae.__name__, sae)
        scaled = {"rescale_acts_by_decoder_norm": True} if "TopK" in sae.__name__ else {}
        setattr(package, f"{sae.__name__}Config", _config(**scaled))
    package.LoggingConfig, package.SAETrainer, config.SAETrainerConfig = _config(), _SAETrainer, _config()
    return {"sae_lens": package, "sae_lens.config": config}


# ------------------------------------------------------------------------------------------------ dictionary_learning


class _Linear(nn.Module):
    """``encoder`` and ``decoder`` as nn.Linear: weights [d_sae, d_in] and [d_in, d_sae]."""

    def __init__(self, d: int, f: int, bias: str, *, encoder_bias: bool = True, k: int = 0) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, f, bias=encoder_bias), nn.Linear(f, d, bias=False)
        _parameters(self, **{bias: (d,)})
        self.bias_name = bias
        if k:
            self.k = torch.tensor(k)
            self.threshold = torch.tensor(-1.0)

    def centred(self, x: Tensor) -> Tensor:
        return x - getattr(self, self.bias_name)


class _AutoEncoder(_Linear):
    def encode(self, x: Tensor) -> Tensor:
        return self.encoder(self.centred(x)).relu()


class _TopK(_Linear):
    def encode(self, x: Tensor, use_threshold: bool = True) -> Tensor:
        return _topk(self.encoder(self.centred(x)), int(self.k))


class _BatchTopK(_Linear):
    def encode(self, x: Tensor, use_threshold: bool = True) -> Tensor:
        h = self.encoder(self.centred(x))
        return h.relu() * (h > self.threshold) if use_threshold else _batch_topk(h, int(self.k))


class _Gated(_Linear):
    def __init__(self, d: int, f: int) -> None:
        super().__init__(d, f, "decoder_bias", encoder_bias=False)
        _parameters(self, gate_bias=(f,))

    def encode(self, x: Tensor, return_gate: bool = False):
        h = self.encoder(self.centred(x))
        gate = h + self.gate_bias
        code = (gate > 0) * h.relu()
        return (code, gate.relu()) if return_gate else code


class _Rows(nn.Module):
    """W_enc [d_in, d_sae] and W_dec [d_sae, d_in] as parameters."""

    def __init__(self, d: int, f: int) -> None:
        super().__init__()
        _parameters(self, W_enc=(d, f), W_dec=(f, d), b_enc=(f,), b_dec=(d,))


class _Matryoshka(_Rows):
    def __init__(self, d: int, f: int, k: int) -> None:
        super().__init__(d, f)
        self.k, self.threshold = torch.tensor(k), torch.tensor(-1.0)

    def encode(self, x: Tensor, use_threshold: bool = True) -> Tensor:
        assert not use_threshold, "a batch is encoded as in training"
        return _batch_topk((x - self.b_dec) @ self.W_enc + self.b_enc, int(self.k))


class _JumpReLU(_Rows):
    def __init__(self, d: int, f: int) -> None:
        super().__init__(d, f)
        nn.init.zeros_(self.b_enc)
        _parameters(self, threshold=(f,))

    def encode(self, x: Tensor) -> Tensor:
        h = x @ self.W_enc + self.b_enc
        return h * (h > self.threshold)


class _Trainer:
    """Keeps the settings that it was made with; a step is of the squared error alone."""

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        self.ae = self.autoencoder(settings["activation_dim"], settings["dict_size"])
        self.optimizer = torch.optim.Adam(self.ae.parameters(), lr=settings["lr"], betas=(0.0, 0.999))

    def update(self, step: int, x: Tensor) -> float:
        assert step > 0, "at step 0 the decoder's bias would be set"
        return float(x.square().mean())


def _trainer(name: str, autoencoder) -> type[_Trainer]:
    return type(name, (_Trainer,), {"autoencoder": lambda self, d, f: autoencoder(d, f, self.settings)})


class MatryoshkaBatchTopKTrainer(_Trainer):
    def autoencoder(self, d: int, f: int) -> nn.Module:
        shares = self.settings["group_fractions"]
        self.group_sizes = [int(share * f) for share in shares[:-1]]
        self.group_sizes.append(f - sum(self.group_sizes))
        return _Matryoshka(d, f, self.settings["k"])


_TRAINERS = {
    "top_k": [_trainer("TopKTrainer", lambda d, f, s: _TopK(d, f, "b_dec", k=s["k"]))],
    "batch_top_k": [_trainer("BatchTopKTrainer", lambda d, f, s: _BatchTopK(d, f, "b_dec", k=s["k"]))],
    "matryoshka_batch_top_k": [MatryoshkaBatchTopKTrainer],
    "standard": [
        _trainer("StandardTrainer", lambda d, f, s: _AutoEncoder(d, f, "bias")),
        _trainer("StandardTrainerAprilUpdate", lambda d, f, s: _AutoEncoder(d, f, "bias")),
    ],
    "jumprelu": [_trainer("JumpReluTrainer", lambda d, f, s: _JumpReLU(d, f))],
    "gdm": [_trainer("GatedSAETrainer", lambda d, f, s: _Gated(d, f))],
}


def dictionary_learning() -> dict[str, ModuleType]:
    """The modules of dictionary_learning by name, for ``sys.modules``."""
    names = ["nnsight", "dictionary_learning", "dictionary_learning.trainers"]
    modules = {name: ModuleType(name) for name in names}
    for file, trainers in _TRAINERS.items():
        module = modules[f"dictionary_learning.trainers.{file}"] = ModuleType(file)
        for trainer in trainers:
            setattr(module, trainer.__name__, trainer)
    return modules
