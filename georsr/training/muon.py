"""Muon: momentum whose matrix is orthogonalised before each step, for hidden convolutions.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). A
kernel (out, in, 3, 3) is treated as the matrix (out, in * 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of the singular value decomposition of (rows, columns), float32.

    Newton-Schulz iteration with the quintic of the source: singular values end up between
    about 0.7 and 1.2, which serves as well as exactly 1.
    """
    a, b, c = _QUINTIC
    x = matrix.float()
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


class Muon(Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay.

    Parameters
    ----------
    params
        Tensors of at least two axes; the first is the output axis.
    lr
        Step length: the spectral norm of one update.
    momentum
        Decay of the running mean of gradients.
    weight_decay
        Per unit of ``lr``, as in AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                momentum: Tensor = state["momentum"]
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]).flatten(1)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonalise(update).view_as(p).to(p.dtype), alpha=-group["lr"])
        return loss
