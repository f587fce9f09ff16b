"""Gradients, losses, normalisations of channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .table import Table, graded, operands


def gradients(case: Table) -> None:
    tensors = operands()
    a, b = tensors.a, tensors.b
    for name in "elu selu celu glu logsigmoid leaky_relu softplus mish hardswish hardtanh softsign".split():
        case(name, graded(getattr(F, name)), torch.randn(7, 32))
    case("prelu", graded(F.prelu), torch.randn(2, 3, 5), torch.rand(3))
    case("logit", graded(lambda x: torch.logit(x.sigmoid(), 0.2)), a)
    for loss in (F.mse_loss, F.smooth_l1_loss, F.huber_loss):
        for reduction in ("mean", "sum", "none"):
            case(f"{loss.__name__} {reduction}", graded(lambda x, y, f=loss, r=reduction: f(x, y, reduction=r)), a, b)
    case("binary_cross_entropy", graded(F.binary_cross_entropy), torch.rand(7, 33), torch.rand(7, 33))
    case("with logits", graded(F.binary_cross_entropy_with_logits), a, torch.rand(7, 33))
    case("polygamma", lambda x: torch.polygamma(2, x.abs() + 1), a)
    case("zeta", lambda x, y: torch.special.zeta(x.abs() + 2, y.abs() + 1), a, b)
    case("round to decimals", lambda x: torch.round(x, decimals=2), a)
    case("renorm", lambda x: x.renorm(2, 0, 3.0), a)
    case("aminmax", lambda x: tuple(x.aminmax(dim=1)), a)
    case("cross", graded(torch.linalg.cross), torch.randn(4, 3), torch.randn(4, 3))
    case("unfold", graded(lambda x: x.unfold(1, 5, 2)), a)
    case("trace", torch.trace, a)
    case("count_nonzero", lambda x: torch.count_nonzero(x.relu(), 1), a)
    case("median", torch.median, a)
    case("nanmedian", lambda x: torch.nanmedian(x.log()), a)
    batch, vectors = torch.randn(4, 3, 5, 6), (torch.rand(3), torch.randn(3))
    for train in (False, True):

        def norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, train: bool = train) -> torch.Tensor:
            mean, variance = torch.full_like(weight.detach(), 0.5), torch.ones_like(weight.detach())
            made = F.batch_norm(x, mean, variance, weight, bias, train, 0.3)
            return torch.cat([made.flatten(), mean, variance])

        case(f"batch_norm, training {train}", graded(norm), batch, *vectors)
    case("batch_norm of rows", graded(lambda x: F.batch_norm(x, None, None, training=True)), a)
    case("instance_norm", graded(F.instance_norm), batch)
    half = batch.bfloat16()
    case("batch_norm of bfloat16", lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), half, *vectors)
