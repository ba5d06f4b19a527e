"""Ctrl-C while the shuffle buffer fills, which takes minutes with a real model, stops at once and loses nothing."""

import os
import signal

import pytest
import torch
from fake_model import HOOK, FakeModel, numbered

import monosem as ms
from monosem.data.harvest import ActivationStream


class Pressed(FakeModel):
    """A model that gets Ctrl-C during forward pass number ``at``."""

    at = -1

    def activations(self, tokens, hook_name):
        made = super().activations(tokens, hook_name)
        if self.forwards == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return made


def trainer(folder=None):
    cfg = ms.TrainConfig(batch_size=64, steps=12, checkpoint_every=100, init_bias=False)
    return ms.Trainer(ms.TopKSAE(5, 16, k=2, seed=0), cfg, folder, progress=False)


def stream(model):
    return ActivationStream(model, HOOK, numbered(80), batch_size=64, buffer_contexts=20, forward_contexts=1)


# A window has 20 contexts of 15 tokens, 4.7 batches; the first forward pass only asks for the width.
@pytest.mark.parametrize("at, steps", [(3, 0), (28, 4)])
def test_filling_stops_between_two_forward_passes(at, steps, tmp_path, capsys):
    model = Pressed()
    model.at = at
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).fit(stream(model))
    assert model.forwards == at, "the buffer was filled to its end"
    assert f"stopped after step {steps} of 12; saved in" in capsys.readouterr().err
    model.at = -1
    resumed, whole = trainer(tmp_path), trainer()
    resumed.fit(stream(model))
    whole.fit(stream(FakeModel()))
    assert resumed.steps_done == 12
    for (name, mine), theirs in zip(
        resumed.learners[0].sae.state_dict().items(), whole.learners[0].sae.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_a_stopped_stream_can_be_used_again(tmp_path):
    model = Pressed()
    model.at = 28
    activations = stream(model)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).fit(activations)
    whole = torch.cat([b for b, _ in zip(stream(FakeModel()), range(8), strict=False)])
    rest = torch.cat([b for b, _ in zip(activations, range(4), strict=False)])
    assert torch.equal(rest, whole[4 * 64 :])  # from the batch that was being made
