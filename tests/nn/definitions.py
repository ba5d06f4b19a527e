"""Every kind of autoencoder by its definition: dense arrays in plain PyTorch, float64, gradients by autograd.

Nothing here uses the package but for the numbers in an autoencoder's parameters and configuration.
"""

import torch

LEAK = 1e-4  # nn.penalties.SMALL


class Jump(torch.autograd.Function):
    """h·H(h − θ) with the straight-through derivatives of arXiv 2407.14435, equation 11."""

    @staticmethod
    def forward(ctx, h, theta, eps, through):
        ctx.save_for_backward(h, theta)
        ctx.eps, ctx.through = eps, through
        return h * (h > theta)

    @staticmethod
    def backward(ctx, g):
        h, theta = ctx.saved_tensors
        band = (((h - theta) / ctx.eps).abs() < 0.5).double()
        return (
            g * (h > theta) + ctx.through * g * theta / ctx.eps * band,
            -(g * theta / ctx.eps * band).sum(0),
            None,
            None,
        )


class Step(torch.autograd.Function):
    """H(h − θ), equation 12."""

    @staticmethod
    def forward(ctx, h, theta, eps):
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return (h > theta).double()

    @staticmethod
    def backward(ctx, g):
        h, theta = ctx.saved_tensors
        return None, -(g / ctx.eps * (((h - theta) / ctx.eps).abs() < 0.5)).sum(0), None


def parameters(sae):
    """Its parameters in float64, as leaves, by name."""
    return {name: p.detach().double().clone().requires_grad_() for name, p in sae.named_parameters()}


def preactivations(p, x, centred=True):
    return (x - p["b_dec"] if centred else x) @ p["W_enc_rows"].T + p["b_enc"]


def largest(h, count):
    """A mask of the ``count`` largest of all entries; of equal ones, the first."""
    chosen = h.detach().flatten().sort(descending=True, stable=True).indices[:count]
    return torch.zeros_like(h).flatten().scatter(0, chosen, 1.0).view(h.shape)


def topk(h, k):
    chosen = h.detach().sort(descending=True, stable=True).indices[:, :k]
    return h.relu() * torch.zeros_like(h).scatter(1, chosen, 1.0)


def squared(p, f, x):
    return (f @ p["W_dec"] + p["b_dec"] - x).square().mean()


def aux(sae, p, f, x, dead, inputs=None):
    """AuxK of arXiv 2406.04093, section A.2, on the residual of the whole code, which is held fixed.

    ``inputs``: of the encoder, where they are not x − b_dec.
    """
    cfg = sae.cfg
    read = slice(None, None, cfg.aux_every)
    residual = (x - f @ p["W_dec"] - p["b_dec"]).detach()[read]
    h = (preactivations(p, x) if inputs is None else preactivations(p, inputs, centred=False))[read, dead]
    size = min(cfg.aux_k, int(dead.sum()))
    return cfg.aux_coefficient * (topk(h, size) @ p["W_dec"][dead] - residual).square().mean()


def topk_loss(sae, p, x, dead, scale):
    f = topk(preactivations(p, x), sae.cfg.k)
    return squared(p, f, x) + aux(sae, p, f, x, dead), f


def abs_topk_loss(sae, p, x, dead, scale):
    f = abs_topk(preactivations(p, x), sae.cfg.k)
    return squared(p, f, x) + aux(sae, p, f, x, dead), f


def group_max_loss(sae, p, x, dead, scale):
    h = preactivations(p, x)
    groups = h.view(len(h), sae.cfg.k, -1)
    f = (groups.relu() * (groups == groups.amax(2, keepdim=True))).flatten(1)
    return squared(p, f, x) + aux(sae, p, f, x, dead), f


def hierarchical_topk_loss(sae, p, x, dead, scale):
    h = preactivations(p, x)
    losses = [squared(p, topk(h, j), x) for j in sae.cfg.budgets]
    f = topk(h, sae.cfg.k)
    return sum(losses) / len(losses) + aux(sae, p, f, x, dead), f


def batch_topk_loss(sae, p, x, dead, scale):
    h = preactivations(p, x)
    f = h.relu() * largest(h, sae.cfg.k * len(x))
    return squared(p, f, x) + aux(sae, p, f, x, dead), f


def relu_loss(sae, p, x, dead, scale):
    free, centred = sae.cfg.decoder_norm == "free", sae.cfg.apply_b_dec_to_input
    f = preactivations(p, x, centred=centred).relu()
    lengths = p["W_dec"].norm(dim=1) if free else 1.0
    power = (f + LEAK).pow(sae.cfg.p) - LEAK**sae.cfg.p if sae.cfg.p < 1 else f * lengths
    weight = sae.cfg.l1_coefficient
    if sae.cfg.p_updates is not None:  # the factor that is kept, or that of a first batch, with the last p
        kept = sae.penalty_scales.scales[-1]
        weight = weight * kept if kept else weight * (f.sum() / power.sum()).detach() if f.any() else weight
    return squared(p, f, x) + scale * weight * power.sum(1).mean(), f


def jumprelu_loss(sae, p, x, dead, scale):
    cfg, theta = sae.cfg, p["threshold"]
    free, tanh = cfg.decoder_norm == "free", cfg.form == "tanh"
    h = preactivations(p, x, centred=not free)
    f = Jump.apply(h, theta, cfg.bandwidth, float(tanh))
    loss, lengths = squared(p, f, x), p["W_dec"].norm(dim=1)
    if not tanh:
        l0 = Step.apply(h, theta, cfg.bandwidth).sum(1).mean()
        return loss + scale * cfg.l0_coefficient * (l0 if cfg.target_l0 is None else (l0 / cfg.target_l0 - 1) ** 2), f
    loss = loss + scale * cfg.l0_coefficient * torch.tanh(4 * f * lengths).sum(1).mean()
    return loss + scale * cfg.pre_activation_coefficient * ((theta - h).relu() * lengths).sum(1).mean(), f


def gated_loss(sae, p, x, dead, scale):
    centred = x - p["b_dec"]
    gate = centred @ p["W_enc_rows"].T + p["b_enc"]
    f = (gate > 0) * ((centred @ p["W_enc_rows"].T) * p["r_mag"].exp() + p["b_mag"]).relu()
    frozen = (gate.relu() @ p["W_dec"].detach() + p["b_dec"].detach() - x).square().mean()
    return squared(p, f, x) + scale * sae.cfg.l1_coefficient * gate.relu().sum(1).mean() + frozen, f


def abs_topk(h, k):
    chosen = h.detach().abs().sort(descending=True, stable=True).indices[:, :k]
    return h * torch.zeros_like(h).scatter(1, chosen, 1.0)


def chosen(sae, p, inputs, target, dead, scale):
    """The code of an activation chosen by name, and what the loss adds to the squared error."""
    cfg, h = sae.cfg, preactivations(p, inputs, centred=False)
    name, nothing = cfg.activation, torch.zeros((), dtype=torch.float64)
    if name == "relu":
        return h.relu(), scale * cfg.l1_coefficient * h.relu().sum(1).mean()
    if name == "jumprelu":
        l0 = Step.apply(h, p["threshold"], cfg.bandwidth).sum(1).mean()
        return Jump.apply(h, p["threshold"], cfg.bandwidth, 0.0), scale * cfg.l0_coefficient * l0
    if name == "gated":
        f = (h > 0) * ((inputs @ p["W_enc_rows"].T) * p["r_mag"].exp() + p["b_mag"]).relu()
        frozen = (h.relu() @ p["W_dec"].detach() + p["b_dec"].detach() - target.detach()).square().mean()
        return f, scale * cfg.l1_coefficient * h.relu().sum(1).mean() + frozen
    if name == "batch_topk":
        f = h.relu() * largest(h, cfg.k * len(h))
    else:
        f = topk(h, cfg.k) if name == "topk" else abs_topk(h, cfg.k)
    return f, nothing + aux(sae, p, f, target, dead, inputs)


def matryoshka_loss(sae, p, x, dead, scale):
    f, more = chosen(sae, p, x - p["b_dec"], x, dead, scale)
    errors = [
        (f[:, :m] @ p["W_dec"][:m] + p["b_dec"] - x).square().mean()
        for m in sae.cfg.prefixes_at(*sae.seed_and_step).sizes
    ]
    return sum(errors) / len(errors) + more, f


def transcoder_loss(sae, p, batch, dead, scale):
    x, y = batch.split([sae.cfg.d_in, sae.cfg.d_out], 1)
    target = y - x @ p["W_skip"].T if sae.cfg.skip else y
    f, more = chosen(sae, p, x, target, dead, scale)
    return squared(p, f, target) + more, f


def crosscoder_loss(sae, p, x, dead, scale):
    cfg = sae.cfg
    if cfg.activation != "relu":
        f, more = chosen(sae, p, x, x, dead, scale)
        return squared(p, f, x) + more, f
    f = preactivations(p, x, centred=False).relu()
    lengths = sum(block.norm(dim=1) for block in p["W_dec"].chunk(cfg.n_sources, 1))
    return squared(p, f, x) + scale * cfg.l1_coefficient * (f * lengths).sum(1).mean(), f


LOSSES = {
    "topk": topk_loss,
    "batch_topk": batch_topk_loss,
    "abs_topk": abs_topk_loss,
    "group_max": group_max_loss,
    "hierarchical_topk": hierarchical_topk_loss,
    "relu": relu_loss,
    "jumprelu": jumprelu_loss,
    "gated": gated_loss,
    "matryoshka": matryoshka_loss,
    "transcoder": transcoder_loss,
    "crosscoder": crosscoder_loss,
}


def loss_and_gradients(sae, x, dead, scale=1.0):
    """The loss of x, its code [N, d_sae] and the gradients of all parameters by name, in float64."""
    p = parameters(sae)
    loss, f = LOSSES[sae.cfg.kind](sae, p, x.double(), dead, scale)
    gradients = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
    zeros = {name: torch.zeros_like(v) for name, v in p.items()}
    return loss.detach(), f.detach(), zeros | {n: g for n, g in zip(p, gradients, strict=True) if g is not None}
