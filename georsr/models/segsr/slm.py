"""SLM, the semantic localization module: prompts are compared with every token of the image.

SeG-SR, arXiv 2505.23010, section III (semantic localization module). Here every prompt is a
parameter. The published code keeps the local prompts in a plain list, where they are neither
trained nor saved.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MetaNet(nn.Module):
    """Bottleneck of two linear layers that summarises the scene vector."""

    def __init__(self, token_dim: int, hidden_dim: int = 32) -> None:
        super().__init__()
        self.linear1 = nn.Linear(token_dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, token_dim)

    def forward(self, scene: Tensor) -> Tensor:
        """(N, E) -> (N, E)."""
        return self.linear2(F.relu(self.linear1(scene)))


class GlobalPrompt(nn.Module):
    """Learned prompt, FiLM-conditioned by the scene vector."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(token_dim) * 0.02)
        self.meta = MetaNet(token_dim)
        self.film = nn.Linear(token_dim, 2 * token_dim)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, scene: Tensor) -> Tensor:
        """Scene vectors (N, E) -> conditioned global prompts (N, E)."""
        gamma, beta = self.film(self.meta(scene)).chunk(2, dim=-1)
        return self.out(gamma * self.prompt + beta)


class PromptAttention(nn.Module):
    """Self-attention over the prompts: no residual, no norm, q, k and v without bias."""

    def __init__(self, token_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(token_dim, 3 * token_dim, bias=False)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, prompts: Tensor) -> Tensor:
        """(N, P, E) -> (N, P, E)."""
        n, p, e = prompts.shape
        # (N, P, 3E) -> 3 x (N, heads, P, E / heads)
        q, k, v = self.qkv(prompts).view(n, p, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(n, p, e))


class GatedFusion(nn.Module):
    """Gate of a local prompt on the global prompt."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(token_dim, token_dim)
        self.value = nn.Linear(token_dim, token_dim)
        self.out = nn.Linear(token_dim, token_dim)

    def forward(self, local_prompt: Tensor, global_prompt: Tensor) -> Tensor:
        """Local and global prompts, both (N, E) -> queries (N, E)."""
        return self.out(torch.sigmoid(self.gate(local_prompt)) * self.value(global_prompt))


class SLM(nn.Module):
    """One global and several local prompts -> one guidance map per backbone group.

    Parameters
    ----------
    token_dim
        E, width of the tokens.
    num_groups
        Groups of the backbone: one local prompt and one map for each.
    num_heads
        Attention heads; must divide ``token_dim``.
    temperature
        Factor on the inner product of token and query (100 in the paper).
    """

    def __init__(
        self, token_dim: int, num_groups: int, num_heads: int = 8, temperature: float = 100.0
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.global_prompt = GlobalPrompt(token_dim)
        self.local_prompts = nn.Parameter(torch.randn(num_groups, token_dim) * 0.02)
        self.attention = PromptAttention(token_dim, num_heads)
        self.fusions = nn.ModuleList(GatedFusion(token_dim) for _ in range(num_groups))

    def forward(self, tokens: Tensor, scene: Tensor) -> list[Tensor]:
        """Compute the guidance map of every group.

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
        local_prompts = self.local_prompts.expand(len(scene), -1, -1)
        prompts = torch.cat([self.global_prompt(scene)[:, None], local_prompts], dim=1)
        prompts = self.attention(prompts)
        queries = torch.stack(
            [fusion(prompts[:, i + 1], prompts[:, 0]) for i, fusion in enumerate(self.fusions)],
            dim=1,
        )
        maps = self.temperature * torch.einsum("nehw,nge->nghw", tokens, queries)
        return list(maps.split(1, dim=1))
