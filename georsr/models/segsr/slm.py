"""SLM, the semantic localization module: prompts look at the scene and point into it.

Source: SeG-SR, arXiv 2505.23010, section III (semantic localization module). Here every prompt is
a parameter (the published code keeps the local ones in a plain list, where they are never trained
nor saved), and the module does not know which encoder the tokens come from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 2**15
"""Products below which torch sums in one thread (its grain size for element-wise work)."""


class DeterministicLinear(nn.Linear):
    """A linear layer whose small products do not depend on the number of CPU threads.

    Matrix libraries choose their order of summation by the number of threads; a product of a few
    thousand terms, multiplied and summed element by element, has one order only. Convolutions
    are steady by themselves.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        products = x.numel() * self.out_features
        if x.device.type != "cpu" or products >= SMALL or torch.is_grad_enabled():
            return super().forward(x)
        y = (x.unsqueeze(-2) * self.weight).sum(-1)
        return y if self.bias is None else y + self.bias


class MetaNet(nn.Module):
    """Bottleneck of two linear layers that summarises the global feature: (N, E) -> (N, E)."""

    def __init__(self, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.linear1 = DeterministicLinear(width, hidden)
        self.linear2 = DeterministicLinear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, E) -> (N, E)."""
        return self.linear2(F.relu(self.linear1(x)))


class GlobalPrompt(nn.Module):
    """One learnable prompt, FiLM-conditioned by the global feature of the scene."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(width) * 0.02)
        self.meta = MetaNet(width)
        self.film = DeterministicLinear(width, 2 * width)
        self.out = DeterministicLinear(width, width)

    def forward(self, scene: Tensor) -> Tensor:
        """Global features (N, E) -> conditioned global prompt (N, E)."""
        gamma, beta = self.film(self.meta(scene)).chunk(2, dim=-1)
        return self.out(gamma * self.prompt + beta)


class PromptAttention(nn.Module):
    """One self-attention over the prompts: no residual, no norm, q, k, v without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = DeterministicLinear(width, 3 * width, bias=False)
        self.out = DeterministicLinear(width, width)

    def forward(self, prompts: Tensor) -> Tensor:
        """(N, P, E) -> (N, P, E)."""
        n, p, e = prompts.shape
        # (N, P, 3E) -> 3 x (N, heads, P, E / heads)
        q, k, v = self.qkv(prompts).view(n, p, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(n, p, e))


class GatedFusion(nn.Module):
    """Lets a local prompt choose what to take from the global one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = DeterministicLinear(width, width)
        self.value = DeterministicLinear(width, width)
        self.out = DeterministicLinear(width, width)

    def forward(self, local: Tensor, scene: Tensor) -> Tensor:
        """Local and global prompts, both (N, E) -> query (N, E)."""
        return self.out(torch.sigmoid(self.gate(local)) * self.value(scene))


class SemanticLocalization(nn.Module):
    """Seven (or any number of) prompts -> one guidance map per backbone group.

    Parameters
    ----------
    width
        E, width of the tokens.
    groups
        Number of backbone groups, one local prompt and one map for each.
    heads
        Attention heads; must divide ``width``.
    temperature
        Factor on the inner product of token and query (100 in the paper).
    """

    def __init__(self, width: int, groups: int, heads: int = 8, temperature: float = 100.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.scene_prompt = GlobalPrompt(width)
        self.local_prompts = nn.Parameter(torch.randn(groups, width) * 0.02)
        self.attention = PromptAttention(width, heads)
        self.fusions = nn.ModuleList(GatedFusion(width) for _ in range(groups))

    def forward(self, tokens: Tensor, scene: Tensor) -> list[Tensor]:
        """Point every local prompt into the scene.

        Parameters
        ----------
        tokens
            (N, E, hc, wc), each token L2-normalised.
        scene
            (N, E), L2-normalised.

        Returns
        -------
        list of Tensor
            One map (N, 1, hc, wc) per group.
        """
        n = scene.shape[0]
        prompts = torch.cat(
            [self.scene_prompt(scene)[:, None], self.local_prompts.expand(n, -1, -1)], dim=1
        )
        prompts = self.attention(prompts)
        queries = torch.stack(
            [fusion(prompts[:, i + 1], prompts[:, 0]) for i, fusion in enumerate(self.fusions)],
            dim=1,
        )
        maps = self.temperature * torch.einsum("nehw,nge->nghw", tokens, queries)
        return list(maps.split(1, dim=1))
