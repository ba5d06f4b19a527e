"""Gradients in slices equal those of the batch, with the same bits for any number of threads."""

import pytest
import torch

from monosem.data.language_model import LMConfig, Transformer, next_token_loss
from monosem.train.slices import CONTEXTS, Slices

SHAPE = LMConfig(d_vocab=300, n_ctx=32, d_model=16, n_heads=2, d_mlp=32)


@pytest.fixture
def threads():
    """Set the number of PyTorch's threads; it is restored afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def made(contexts):
    model = Transformer(SHAPE).init_weights(0)
    return model, torch.randint(0, 300, (contexts, 33), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("contexts", [1, CONTEXTS, 2 * CONTEXTS + 3])
def test_gradients_are_those_of_the_whole_batch(contexts):
    model, rows = made(contexts)
    with Slices(model, contexts) as slices:
        for _ in range(2):  # the second replaces the first
            loss = slices.backward(rows)
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    expected = next_token_loss(model, rows)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    for (name, p), gradient in zip(model.named_parameters(), ours, strict=True):
        torch.testing.assert_close(gradient, p.grad, atol=1e-7, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_threads(threads, products):
    model, rows = made(5 * CONTEXTS + 1)
    results = []
    for count in (1, 2, 3):
        threads(count)
        with Slices(model, len(rows), products) as slices:
            assert torch.get_num_threads() == 1
            results.append((slices.backward(rows), [p.grad for p in model.parameters()]))
        assert torch.get_num_threads() == count
    for loss, gradients in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(a, b) for a, b in zip(gradients, results[0][1], strict=True))


@pytest.mark.parametrize(("contexts", "each"), [(CONTEXTS, 7), (2 * CONTEXTS, 3), (3 * CONTEXTS - 1, 2)])
def test_threads_beyond_the_slices_share_their_operations(threads, contexts, each):
    model, rows = made(contexts)
    with Slices(model, contexts) as slices:
        expected = slices.backward(rows)
    gradients = [p.grad for p in model.parameters()]
    threads(7)
    with Slices(model, contexts) as slices:
        assert torch.get_num_threads() == each
        assert slices.backward(rows) == pytest.approx(expected, rel=1e-6)
    assert torch.get_num_threads() == 7
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, gradient, atol=1e-7, rtol=1e-5)


def test_an_exception_in_a_thread_is_raised_and_the_thread_count_restored(threads):
    threads(2)
    model, rows = made(4 * CONTEXTS)
    rows[-1, 0] = 300  # no such token
    with pytest.raises(IndexError), Slices(model, len(rows)) as slices:
        slices.backward(rows)
    assert torch.get_num_threads() == 2
