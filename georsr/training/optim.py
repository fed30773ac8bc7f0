"""Optimize with Muon and Adam, and schedule learning rates.

Muon orthogonalizes the momentum of each hidden weight matrix before the step (K. Jordan et al.,
"Muon: An optimizer for hidden layers in neural networks", 2024). `torch.optim.Muon` (torch 2.9)
takes matrices only and computes in bfloat16; here a kernel (out, in, 3, 3) is the matrix
(out, in * 9), in float32.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def cosine(step: int, steps: int, warmup: int, hold: float) -> float:
    """Return a fraction of the peak learning rate: linear rise, plateau, cosine to zero.

    Parameters
    ----------
    step, steps
        Current step (from 0) and length of the run.
    warmup
        Steps of linear rise.
    hold
        Fraction of the run at which the cosine begins.
    """
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, int(hold * steps))
    if step < start:
        return 1.0
    progress = (step - start) / max(1, steps - start)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def multi_step(step: int, warmup: int, milestones: Sequence[int], gamma: float) -> float:
    """Return a fraction of the peak: linear rise, then times ``gamma`` from each milestone on."""
    rise = (step + 1) / warmup if step < warmup else 1.0
    return float(rise * gamma ** bisect_right(sorted(milestones), step))


_QUINTIC = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
MOMENTUM = 0.95


def orthogonalize(matrix: Tensor) -> Tensor:
    """Approximate U V^T of the singular value decomposition of (rows, columns), float32.

    Newton-Schulz iteration with the quintic of the source: singular values become 0.7 to 1.2,
    which works as well as exactly 1.
    """
    a, b, c = _QUINTIC
    x = matrix.float()
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if transposed else x


class MuonAdam(torch.optim.Adam):
    """One optimizer with two groups: kernels by Muon, all other parameters by Adam.

    Parameters
    ----------
    kernels
        Tensors of at least two axes for Muon; the first axis is that of the output.
    others
        Tensors for Adam.
    muon_lr
        Learning rate of Muon: the spectral norm of one update.
    lr, betas
        Learning rate and decays of Adam.
    weight_decay
        Decoupled weight decay of Muon, per unit of learning rate.
    """

    def __init__(
        self,
        kernels: Sequence[nn.Parameter],
        others: Sequence[nn.Parameter],
        *,
        muon_lr: float,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        groups: list[dict[str, Any]] = [{"params": list(others), "muon": False, "decay": 0.0}]
        if kernels:
            groups.append(
                {"params": list(kernels), "muon": True, "lr": muon_lr, "decay": weight_decay}
            )
        super().__init__(groups, lr, betas=betas)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["muon"]]
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(p)
                state["step"] = torch.zeros(())  # Adam expects it in every saved state
            momentum: Tensor = state["momentum"]
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            update = p.grad.lerp(momentum, MOMENTUM).flatten(1)
            p.mul_(1 - group["lr"] * group["decay"])
            p.add_(orthogonalize(update).view_as(p).to(p.dtype), alpha=-group["lr"])
