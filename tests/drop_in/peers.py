"""Autoencoders with the interfaces of other libraries, dense and in a few lines, under the libraries' names.

``bench/accelerated.py`` compares with the libraries themselves, in their own environments.
"""

import sys
import types
from typing import NamedTuple

import torch
from torch import nn


def module(name, **members):
    """A module of that name, with classes that say that they come from it."""
    made = types.ModuleType(name)
    for key, value in members.items():
        value.__module__ = name
        setattr(made, key, value)
    sys.modules[name] = made
    return made


def random_(parameters, seed=0):
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float32) * (0.4 if p.dim() == 2 else 0.2))


def scattered(h, k):
    top = h.topk(k, sorted=False)
    return torch.zeros_like(h).scatter_(-1, top.indices, top.values), top


def batch_chosen(h, k):
    flat = h.relu().flatten()
    top = flat.topk(int(k * h.shape[:-1].numel()))
    return torch.zeros_like(flat).scatter(0, top.indices, top.values).view(h.shape)


# dictionary_learning


class AutoEncoder(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.activation_dim, self.dict_size = d, f
        self.bias = nn.Parameter(torch.zeros(d))
        self.encoder, self.decoder = nn.Linear(d, f), nn.Linear(f, d, bias=False)
        random_(self.parameters())

    def encode(self, x):
        return self.encoder(x - self.bias).relu()

    def decode(self, f):
        return self.decoder(f) + self.bias

    def forward(self, x, output_features=False):
        f = self.encode(x)
        return (self.decode(f), f) if output_features else self.decode(f)


class AutoEncoderNew(AutoEncoder):
    def __init__(self, d, f):
        super().__init__(d, f)
        del self.bias
        self.decoder = nn.Linear(f, d)
        random_(self.parameters())

    def encode(self, x):
        return self.encoder(x).relu()

    def decode(self, f):
        return self.decoder(f)


class AutoEncoderTopK(nn.Module):
    def __init__(self, d, f, k=5):
        super().__init__()
        self.activation_dim, self.dict_size = d, f
        self.register_buffer("k", torch.tensor(k))
        self.register_buffer("threshold", torch.tensor(-1.0))
        self.encoder, self.decoder = nn.Linear(d, f), nn.Linear(f, d, bias=False)
        self.b_dec = nn.Parameter(torch.zeros(d))
        random_(self.parameters())

    def encode(self, x, return_topk=False, use_threshold=False):
        h = self.encoder(x - self.b_dec).relu()
        f, top = scattered(h, int(self.k))
        if use_threshold:
            f = h * (h > self.threshold)
        return (f, top.values, top.indices, h) if return_topk else f

    def decode(self, f):
        return self.decoder(f) + self.b_dec

    forward = AutoEncoder.forward


class BatchTopKSAE(AutoEncoderTopK):
    def encode(self, x, return_active=False, use_threshold=True):
        h = self.encoder(x - self.b_dec).relu()
        f = h * (h > self.threshold) if use_threshold else batch_chosen(h, int(self.k))
        return (f, f.sum(0) > 0, h) if return_active else f


class MatryoshkaBatchTopKSAE(nn.Module):
    def __init__(self, d, f, k=5):
        super().__init__()
        self.dict_size, self.active_groups, self.group_indices = f, 2, [0, f // 4, f // 2, f]
        self.register_buffer("k", torch.tensor(k))
        self.register_buffer("threshold", torch.tensor(0.3))
        self.W_enc, self.b_enc = nn.Parameter(torch.zeros(d, f)), nn.Parameter(torch.zeros(f))
        self.W_dec, self.b_dec = nn.Parameter(torch.zeros(f, d)), nn.Parameter(torch.zeros(d))
        random_(self.parameters())

    def encode(self, x, return_active=False, use_threshold=True):
        h = ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()
        f = h * (h > self.threshold) if use_threshold else batch_chosen(h, int(self.k))
        f[:, self.group_indices[self.active_groups] :] = 0
        return (f, f.sum(0) > 0, h) if return_active else f

    def decode(self, f):
        return f @ self.W_dec + self.b_dec

    forward = AutoEncoder.forward


class GatedAutoEncoder(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)
        self.decoder_bias = nn.Parameter(torch.zeros(d))
        self.r_mag, self.gate_bias, self.mag_bias = (nn.Parameter(torch.zeros(f)) for _ in range(3))
        random_(self.parameters())

    def encode(self, x, return_gate=False, normalize_decoder=False):
        product = self.encoder(x - self.decoder_bias)
        gate = product + self.gate_bias
        f = (gate > 0) * (self.r_mag.exp() * product + self.mag_bias).relu()
        if normalize_decoder:
            f = f * self.decoder.weight.norm(dim=0)
        return (f, gate.relu()) if return_gate else f

    def decode(self, f):
        return self.decoder(f) + self.decoder_bias

    forward = AutoEncoder.forward


class JumpReluAutoEncoder(nn.Module):
    apply_b_dec_to_input = False

    def __init__(self, d, f):
        super().__init__()
        self.W_enc, self.b_enc = nn.Parameter(torch.zeros(d, f)), nn.Parameter(torch.zeros(f))
        self.W_dec, self.b_dec = nn.Parameter(torch.zeros(f, d)), nn.Parameter(torch.zeros(d))
        self.threshold = nn.Parameter(torch.zeros(f))
        random_(self.parameters())

    def encode(self, x, output_pre_jump=False):
        h = (x - self.b_dec if self.apply_b_dec_to_input else x) @ self.W_enc + self.b_enc
        f = (h * (h > self.threshold)).relu()
        return (f, h) if output_pre_jump else f

    def decode(self, f):
        return f @ self.W_dec + self.b_dec

    forward = AutoEncoder.forward


DICTIONARY_LEARNING = module(
    "dictionary_learning.stand_in",
    AutoEncoder=AutoEncoder,
    AutoEncoderNew=AutoEncoderNew,
    AutoEncoderTopK=AutoEncoderTopK,
    BatchTopKSAE=BatchTopKSAE,
    MatryoshkaBatchTopKSAE=MatryoshkaBatchTopKSAE,
    GatedAutoEncoder=GatedAutoEncoder,
    JumpReluAutoEncoder=JumpReluAutoEncoder,
)


# SAELens


class Hook(nn.Module):
    def forward(self, x):
        return x


class SAE(nn.Module):
    def __init__(self, d, f, **cfg):
        super().__init__()
        self.cfg = types.SimpleNamespace(
            k=cfg.get("k", 5), rescale_acts_by_decoder_norm=cfg.get("rescale_acts_by_decoder_norm", False)
        )
        self.W_enc, self.W_dec = nn.Parameter(torch.zeros(d, f)), nn.Parameter(torch.zeros(f, d))
        for name in ("b_enc", "b_gate", "b_mag", "r_mag", "threshold"):
            self.register_parameter(name, nn.Parameter(torch.zeros(f)))
        self.b_dec = nn.Parameter(torch.zeros(d))
        self.hook_sae_acts_pre, self.hook_sae_acts_post = Hook(), Hook()
        random_(self.parameters())

    def process_sae_in(self, x):
        return x - self.b_dec

    def norms(self):
        return self.W_dec.norm(dim=-1) if self.cfg.rescale_acts_by_decoder_norm else 1.0

    def pre(self, x):
        return self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)

    def decode(self, f):
        if self.cfg.rescale_acts_by_decoder_norm:
            f = f * (1 / self.W_dec.norm(dim=-1))
        return f @ self.W_dec + self.b_dec

    def forward(self, x):
        return self.decode(self.encode(x))


class StandardSAE(SAE):
    def encode(self, x):
        return self.hook_sae_acts_post(self.pre(x).relu())


class Transcoder(StandardSAE):
    pass


class TopKSAE(SAE):
    def encode(self, x):
        return self.hook_sae_acts_post(scattered(self.pre(x) * self.norms(), self.cfg.k)[0].relu())


class JumpReLUSAE(SAE):
    def encode(self, x):
        h = self.pre(x)
        return self.hook_sae_acts_post(h.relu() * (h > self.threshold))


class GatedSAE(SAE):
    def encode(self, x):
        x = self.process_sae_in(x)
        gate = x @ self.W_enc + self.b_gate > 0
        return self.hook_sae_acts_post(gate * (x @ (self.W_enc * self.r_mag.exp()) + self.b_mag).relu())


class TrainingSAE(SAE):
    def encode(self, x):
        return self.encode_with_hidden_pre(x)[0]


class StandardTrainingSAE(TrainingSAE):
    def encode_with_hidden_pre(self, x):
        h = self.pre(x)
        return self.hook_sae_acts_post(h.relu()), h


class TopKTrainingSAE(TrainingSAE):
    def encode_with_hidden_pre(self, x):
        h = self.pre(x) * self.norms()
        return self.hook_sae_acts_post(scattered(h, self.cfg.k)[0].relu()), h


class BatchTopKTrainingSAE(TopKTrainingSAE):
    def encode_with_hidden_pre(self, x):
        h = self.pre(x) * self.norms()
        return self.hook_sae_acts_post(batch_chosen(h, self.cfg.k)), h


class JumpReLUTrainingSAE(TrainingSAE):
    def encode_with_hidden_pre(self, x):
        h = self.pre(x)
        return h.relu() * (h > self.threshold), h


SAE_LENS = module(
    "sae_lens.stand_in",
    StandardSAE=StandardSAE,
    Transcoder=Transcoder,
    TopKSAE=TopKSAE,
    JumpReLUSAE=JumpReLUSAE,
    GatedSAE=GatedSAE,
    TrainingSAE=TrainingSAE,
    StandardTrainingSAE=StandardTrainingSAE,
    TopKTrainingSAE=TopKTrainingSAE,
    BatchTopKTrainingSAE=BatchTopKTrainingSAE,
    JumpReLUTrainingSAE=JumpReLUTrainingSAE,
)


# sparsify


class EncoderOutput(NamedTuple):
    top_acts: torch.Tensor
    top_indices: torch.Tensor
    pre_acts: torch.Tensor


class SparseCoder(nn.Module):
    def __init__(self, d, f, transcode=False, activation="topk"):
        super().__init__()
        self.cfg = types.SimpleNamespace(k=5, activation=activation, transcode=transcode)
        self.num_latents = f
        self.encoder = nn.Linear(d, f)
        self.W_dec, self.b_dec = nn.Parameter(torch.zeros(f, d)), nn.Parameter(torch.zeros(d))
        random_(self.parameters())

    def encode(self, x):
        h = self.encoder(x if self.cfg.transcode else x - self.b_dec).relu()
        return EncoderOutput(*h.topk(self.cfg.k, sorted=False), h)

    def decode(self, top_acts, top_indices):
        return (self.W_dec[top_indices] * top_acts[..., None]).sum(-2) + self.b_dec

    def forward(self, x, dead_mask):
        values, indices, h = self.encode(x)
        x_hat = self.decode(values, indices)
        e = x - x_hat
        dead_values, dead_indices = torch.where(dead_mask[None], h, -torch.inf).topk(3, sorted=False)
        of_dead = (self.W_dec[dead_indices] * dead_values[..., None]).sum(-2) - e.detach()
        wide = self.decode(*h.topk(4 * self.cfg.k, sorted=False)) - x
        return e.square().sum() + of_dead.square().sum() / 32 + wide.square().sum() / 8


SPARSIFY = module("sparsify.stand_in", SparseCoder=SparseCoder, EncoderOutput=EncoderOutput)
