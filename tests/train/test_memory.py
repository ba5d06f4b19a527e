import pytest
import torch

import monosem as ms
from monosem.train import memory


def test_the_estimate_counts_parameters_adam_and_average():
    parameters = 2 * 4096 * 512 + 4096 + 512
    without = memory.bytes_needed(512, 4096, 0)
    assert without == 3 * 4 * parameters + 2 * 4096 * 512
    assert memory.bytes_needed(512, 4096, 0, ema=True) - without == 4 * parameters
    assert without - memory.bytes_needed(512, 4096, 0, built=True) == 4 * parameters


def test_a_dictionary_too_wide_for_memory_is_refused(make, config, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 10_000)
    with pytest.raises(ValueError, match=r"d_sae: training d_sae=\[48\] needs about 38.9 kB more memory on cpu"):
        ms.Trainer(make("topk"), config())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="x needs about 52 TB more memory on cpu"):
        memory.check_fits(memory.bytes_needed(1000, 2 * 10**9, 1), torch.device("cpu"), "x")
