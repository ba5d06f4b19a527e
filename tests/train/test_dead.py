import torch

from monosem.train.dead import DeadTracker


def test_counts_tokens_and_steps_since_the_last_firing():
    tracker = DeadTracker(3)
    tracker.update(torch.tensor([True, False, False]), 10)
    tracker.update(torch.tensor([False, False, True]), 7)
    assert tracker.tokens_since_fired.tolist() == [7, 17, 0]
    assert tracker.steps_since_fired.tolist() == [1, 2, 0]
    assert tracker.dead_for_tokens(8).tolist() == [False, True, False]
    assert tracker.dead_for_steps(1).tolist() == [True, True, False]


def test_nothing_is_dead_at_the_start_nor_after_a_reset():
    tracker = DeadTracker(4)
    assert not tracker.dead_for_steps(1).any()
    tracker.update(torch.zeros(4, dtype=torch.bool), 5)
    tracker.reset(torch.tensor([1, 3]))
    assert tracker.dead_for_tokens(5).tolist() == tracker.dead_for_steps(1).tolist() == [True, False, True, False]
