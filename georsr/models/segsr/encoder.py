"""SFEM, the semantic feature extraction module: CLIP's image tower, read at every patch.

SeG-SR, arXiv 2505.23010, section III (semantic feature extraction); CLIP, arXiv 2103.00020. The
tower is open_clip's; only its attention is replaced, so that fused kernels run it and LoRA can
reach the joint q, k, v layer. open_clip is imported when an encoder is built, never before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""What the published network subtracts from its input, CLIP's included."""


class ClipAttention(nn.Module):
    """Self-attention with a joint q, k, v layer, called the way open_clip's blocks call theirs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """(N, L, W) -> (N, L, W), and None in place of attention weights."""
        n, length, width = x.shape
        # (N, L, 3W) -> 3 x (N, heads, L, W / heads)
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(n, length, width)), None


class ClipEncoder(nn.Module):
    """RGB tile -> one unit vector per CLIP patch, and one for the whole tile.

    It owns its preprocessing: enlarging by ``scale`` (so that a patch is small on the ground) and
    normalisation. Weights are random until loaded.

    Parameters
    ----------
    scale
        The network's factor.
    width, layers, heads, patch
        The tower: 768, 12, 12 and 16 in ViT-B/16.
    tokens
        E, width of the vectors (512).
    grid
        Patches along each side of CLIP's training images (14).
    quick_gelu
        x * sigmoid(1.702 x) instead of GELU, as in OpenAI's weights.
    published
        As the published SeG-SR runs it: 16 heads, mean-subtracted un-normalised input, positions
        interpolated along the flattened sequence, and the first patch in the place of the class
        token as scene vector. Otherwise as CLIP was trained, with positions interpolated on the
        patch grid.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        scale: int,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        patch: int = 16,
        tokens: int = 512,
        grid: int = 14,
        quick_gelu: bool = True,
        published: bool = False,
    ) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, VisionTransformer

        if width % heads:
            raise ModelError(f"CLIP width {width} is not a multiple of its {heads} heads")
        self.scale, self.patch, self.published = scale, patch, published
        self.options = {
            "width": width,
            "layers": layers,
            "heads": heads,
            "patch": patch,
            "tokens": tokens,
            "grid": grid,
            "quick_gelu": quick_gelu,
        }
        self.width = tokens
        trunk = VisionTransformer(
            image_size=grid * patch,
            patch_size=patch,
            width=width,
            layers=layers,
            heads=heads,
            mlp_ratio=4.0,
            output_dim=tokens,
            act_layer=QuickGELU if quick_gelu else nn.GELU,
        )
        self.class_embedding = trunk.class_embedding
        self.positional_embedding = trunk.positional_embedding
        self.proj = trunk.proj
        self.conv1 = trunk.conv1
        self.ln_pre = trunk.ln_pre
        self.blocks = trunk.transformer.resblocks
        for block in self.blocks:
            block.attn = ClipAttention(width, heads)
        self.ln_post = trunk.ln_post
        mean, std = (DIV2K_MEAN, (1.0, 1.0, 1.0)) if published else (CLIP_MEAN, CLIP_STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, x: Tensor) -> Tensor:
        """(N, 3, h, w) in 0..1 -> enlarged and normalised, each side a multiple of the patch."""
        step = self.patch
        size = [math.ceil(n * self.scale / step) * step for n in x.shape[2:]]
        x = (x - self.mean) / self.std
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Positional embedding (1 + rows * columns, W) for a patch grid of that size."""
        known = self.positional_embedding
        if self.published:
            sequence = known.t()[None].float()
            length = 1 + rows * columns
            line = F.interpolate(sequence, length, mode="linear", align_corners=False)
            return line[0].t().to(known.dtype)
        side = math.isqrt(len(known) - 1)
        plane = known[1:].t().reshape(1, -1, side, side).float()
        plane = F.interpolate(plane, (rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([known[:1], plane[0].flatten(1).t().to(known.dtype)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Describe a tile.

        Parameters
        ----------
        x
            (N, 3, h, w) in 0..1.

        Returns
        -------
        tokens, scene
            (N, E, hc, wc) with hc = ceil(s * h / patch), and (N, E), L2-normalised over E.
        """
        patches = self.conv1(self.preprocess(x))
        n, _, rows, columns = patches.shape
        sequence = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.to(sequence.dtype).expand(n, 1, -1)
        sequence = torch.cat([first, sequence], dim=1)
        sequence = self.ln_pre(sequence + self.positions(rows, columns).to(sequence.dtype))
        for block in self.blocks:
            sequence = block(sequence)
        described = self.ln_post(sequence)
        # The published code drops the class token, then pools what it takes for it: its scene
        # vector is the first patch, normalised by ln_post a second time.
        scene = self.ln_post(described[:, 1]) if self.published else described[:, 0]
        tokens = self._unit(described[:, 1:] @ self.proj)
        return tokens.transpose(1, 2).unflatten(2, (rows, columns)), self._unit(scene @ self.proj)

    def _unit(self, x: Tensor) -> Tensor:
        """L2-normalise over the last axis, in no less than float32, in the weights' precision."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.normalize(wide, dim=-1).to(self.proj.dtype)
