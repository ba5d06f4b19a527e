"""The strongest row of each feature against a dense maximum, with ties."""

import torch

from monosem.analysis.peaks import Peaks
from monosem.analysis.scan import Block

F, T = 9, 5


def block(rows, code):
    """A block of ``rows`` whose first position is not scored; ``code`` [len(rows), T, F]."""
    scored = torch.arange(len(rows) * T).view(-1, T)[:, 1:].flatten()
    values = code.view(-1, F)[scored]
    at, features = values.nonzero().T
    nothing = torch.zeros(len(scored), 1)
    tokens = torch.zeros(len(rows), T, dtype=torch.int64)
    which = (values[at, features], features, at, (at[:0], at[:0]))
    return Block(torch.tensor(rows), tokens, torch.zeros(len(scored)), scored, nothing, None, None, *which, None)


def test_against_a_dense_maximum():
    g = torch.Generator().manual_seed(0)
    code = torch.randint(0, 4, (12, T, F), generator=g).float()  # few values: ties within rows, blocks and between them
    code[:, :, 3] = 0
    code[:, 0] = 9  # of positions that are not scored
    order = torch.randperm(12, generator=g).tolist()
    peaks = Peaks(F)
    for rows in (order[:5], order[5:6], order[6:]):
        peaks.update(block(rows, code[rows]))
    best = code[:, 1:].amax(1)  # [12, F]
    assert torch.equal(peaks.value, best.amax(0)) and peaks.row[3] == -1
    for f in set(range(F)) - {3}:
        assert best[peaks.row[f], f] == best[:, f].max()
        first = next(rows for rows in (order[:5], order[5:6], order[6:]) if best[rows, f].max() == best[:, f].max())
        assert peaks.row[f] == min(r for r in first if best[r, f] == best[:, f].max())
