"""Cross-entropy at the unembedding, where a small model with a large vocabulary spends most of its time."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 256  # tokens whose logits exist at one time


def head_loss(h: Tensor, w: Tensor, b: Tensor, target: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """Mean cross-entropy of ``h @ w + b``, in nats; its gradients are computed with it.

    Args:
        h: inputs of the unembedding [N, d_model], fp32.
        w: unembedding [d_model, d_vocab], fp32.
        b: its bias [d_vocab], fp32.
        target: the next token of each row [N], int64.
        products: what the factors of the three products are rounded to: fp32, or bf16, in which processors with
            AVX512-BF16 or AMX take less than half the time. The softmax, the loss and all sums over rows are in fp32.
    """
    return _HeadLoss.apply(h, w, b, target, products)


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor, w: Tensor, b: Tensor, target: Tensor, products: torch.dtype) -> Tensor:
        n = len(h)
        dh, dw, db = torch.empty_like(h), torch.zeros_like(w), torch.zeros_like(b)
        loss = torch.zeros((), dtype=torch.float64, device="cpu")
        head = _Float32(w, b, dw) if products == torch.float32 else _Rounded(w, b, dw, products)
        for rows, hit, d_rows in zip(*(t.split(ROWS) for t in (h, target.unsqueeze(1), dh)), strict=True):
            z = head.logits(rows)
            right, top = z.gather(1, hit), z.amax(1, keepdim=True)
            p = torch.softmax(z, 1, out=z)  # one sweep, a row of which stays in cache
            # The largest probability is at least 1 / d_vocab, so that its logarithm is exact where the target's is not.
            loss += (top - p.amax(1, keepdim=True).log() - right).sum(dtype=torch.float64)
            p.scatter_add_(1, hit, torch.full_like(right, -1.0))
            db += p.sum(0)
            head.backward(rows, p, d_rows)
        for gradient in (dh, dw, db):
            gradient.div_(n)
        ctx.save_for_backward(dh, dw, db)
        return (loss / n).to(h.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        (grad,) = grads
        dh, dw, db = ctx.saved_tensors
        return dh * grad, dw * grad, db * grad, None, None


class _Float32:
    """The three products, into memory that is used again for each piece."""

    def __init__(self, w: Tensor, b: Tensor, dw: Tensor) -> None:
        self.w, self.b, self.dw = w, b, dw
        self.space = w.new_empty(ROWS, w.shape[1])

    def logits(self, rows: Tensor) -> Tensor:
        return torch.addmm(self.b, rows, self.w, out=self.space[: len(rows)])

    def backward(self, rows: Tensor, d_logits: Tensor, d_rows: Tensor) -> None:
        torch.mm(d_logits, self.w.T, out=d_rows)
        self.dw.addmm_(rows.T, d_logits)


class _Rounded(_Float32):
    """The same with rounded factors. PyTorch also rounds each product, before it is added to the rest in fp32."""

    def __init__(self, w: Tensor, b: Tensor, dw: Tensor, products: torch.dtype) -> None:
        super().__init__(w, b, dw)
        self.low = w.to(products)
        self.low_space = torch.empty_like(self.space, dtype=products)

    def logits(self, rows: Tensor) -> Tensor:
        low = torch.mm(rows.to(self.low.dtype), self.low, out=self.low_space[: len(rows)])
        return self.space[: len(rows)].copy_(low).add_(self.b)

    def backward(self, rows: Tensor, d_logits: Tensor, d_rows: Tensor) -> None:
        low = self.low_space[: len(d_logits)].copy_(d_logits)
        d_rows.copy_(torch.mm(low, self.low.T))
        self.dw += torch.mm(rows.to(low.dtype).T, low)
