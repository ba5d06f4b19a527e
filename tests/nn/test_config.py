"""Configurations: how they are told to people."""

from dataclasses import dataclass

import pytest
from nn.test_kinds import KINDS

import monosem as ms
from monosem.nn.config import SAEConfig

TOLD = {
    "TopK with k = 8": lambda: ms.TopKSAE(16, 64, 8),
    "BatchTopK with k = 8, aux_k = 0, initial_k = 20": lambda: ms.BatchTopKSAE(16, 64, 8, aux_k=0, initial_k=20),
    "AbsTopK with k = 8, aux_coefficient = 0.1": lambda: ms.AbsTopKSAE(16, 64, 8, aux_coefficient=0.1),
    "GroupMax with 8 groups": lambda: ms.GroupMaxSAE(16, 64, 8),
    "HierarchicalTopK with k = 8, all budgets": lambda: ms.HierarchicalTopKSAE(16, 64, 8),
    "HierarchicalTopK with k = 8, budgets (2, 8)": lambda: ms.HierarchicalTopKSAE(16, 64, 8, budgets=[2]),
    "ReLU with λ = 0.003, p = 0.5, p_start = 0.3": lambda: ms.ReLUSAE(16, 64, 0.003, p=0.5, p_start=0.3),
    "ReLU with λ = 0.003, free norms": lambda: ms.ReLUSAE(16, 64, 0.003, "free"),
    "JumpReLU (l0) with λ = auto, target L0 4": lambda: ms.JumpReLUSAE(16, 64, target_l0=4),
    "JumpReLU (tanh) with λ = 0.1, free norms, bandwidth = 2": lambda: ms.JumpReLUSAE(
        16, 64, 0.1, bandwidth=2.0, form="tanh", decoder_norm="free"
    ),
    "Gated with λ = 0.003": lambda: ms.GatedSAE(16, 64, 0.003),
    "Matryoshka (batch_topk, k = 8) with prefixes (4, 8, 16, 32, 64)": lambda: ms.MatryoshkaSAE(16, 64, 8),
    "Matryoshka (relu, λ = 0.1) with prefixes (3, 64)": lambda: ms.MatryoshkaSAE(
        16, 64, activation="relu", l1_coefficient=0.1, prefixes=(3, 64)
    ),
    "Matryoshka (topk, k = 8) with 5 sampled prefixes, min_prefix_length = 2": lambda: ms.MatryoshkaSAE(
        16, 64, 8, activation="topk", n_prefixes=5, min_prefix_length=2
    ),
    "Transcoder (topk, k = 8) with skip connection, d_out = 7": lambda: ms.Transcoder(16, 7, 64, 8, skip=True),
    "Crosscoder of 3 sources (relu, λ = 0.01)": lambda: ms.Crosscoder(18, 64, 3, 0.01),
}


@pytest.mark.parametrize("words", TOLD)
def test_a_configuration_tells_the_settings_that_are_not_the_defaults(words):
    assert TOLD[words]().cfg.describe() == words


def test_every_kind_is_told_in_words():
    assert {build().cfg.kind for build in TOLD.values()} == {build().cfg.kind for build in KINDS.values()}


def test_a_kind_of_ones_own_tells_its_settings():
    @dataclass(frozen=True)
    class Config(SAEConfig):
        kind = "own"
        n: int = 100
        share: float = 0.5

        def __post_init__(self):
            if self.n > self.d_sae:
                raise ValueError("n")

    assert Config(4, 200).describe() == "own"
    assert Config(4, 8, n=3).describe() == "own with n = 3"  # the default is no value beside d_sae
    assert Config(4, 200, share=0.25).describe() == "own with share = 0.25"
