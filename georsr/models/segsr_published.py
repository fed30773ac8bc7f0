"""The published SeG-SR: its network where it differs from ours, and its checkpoints.

What a checkpoint holds was found by running the published network. It contains the CLIP tower with
LoRA, and modules that are never called. It lacks the six local prompts, which were drawn under seed
0 at construction and never trained nor saved. The draw is repeatable and completes the checkpoint
(``text_locals_seed0_x{2,4}.npy``, (512, 6), one column per group).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from georsr.errors import ModelError
from georsr.models.hat import DIV2K_MEAN, HAT
from georsr.models.segsr import LMM, SLM, SegSR
from georsr.models.sfem import ClipEncoder
from georsr.models.spec import ModelSpec

WEIGHT_KEYS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net")
"""Keys under which training programs store the weights; averaged ones first."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint by key.

    Raises
    ------
    ModelError
        The file is damaged, holds code (which is never run), or no weights.
    """
    try:
        # mapped into memory where the format allows it: tensors that are not used are not read
        loaded: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=_is_archive(path)
        )
    except Exception as error:  # damaged bytes may fail in any way
        raise ModelError(
            f"{path}: not a readable checkpoint, or one with code inside, which is never run "
            f"({type(error).__name__}); expected a dictionary of weights"
        ) from error
    if isinstance(loaded, dict):
        loaded = next((loaded[k] for k in WEIGHT_KEYS if isinstance(loaded.get(k), dict)), loaded)
    if not isinstance(loaded, dict) or not loaded:
        raise ModelError(f"{path}: holds no dictionary of weights")
    if others := [str(k) for k, v in loaded.items() if not isinstance(v, Tensor)]:
        raise ModelError(f"{path}: {others[0]} is not a tensor; expected a dictionary of weights")
    return {str(k).removeprefix("module."): v for k, v in loaded.items()}


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


class PublishedClipEncoder(ClipEncoder):
    """CLIP as the published SeG-SR runs it.

    Its attention has 16 heads. Its input is mean-subtracted, not normalised by CLIP's statistics.
    Positions are interpolated along the flattened sequence, class token included. The scene vector
    is that of the first patch instead of the class token.
    """

    input_statistics = (DIV2K_MEAN, (1.0, 1.0, 1.0))

    def __init__(self, scale: int, *, num_heads: int = 16, **options: Any) -> None:
        super().__init__(scale, num_heads=num_heads, **options)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the positional embedding (1 + rows * columns, W), interpolated in 1-D."""
        embedding = self.positional_embedding
        sequence = embedding.t()[None].float()
        length = 1 + rows * columns
        sequence = F.interpolate(sequence, length, mode="linear", align_corners=False)
        return sequence[0].t().to(embedding.dtype)

    def scene_token(self, tokens: Tensor) -> Tensor:
        """Return the first patch, normalised by ``ln_post`` a second time, (N, W).

        The published code drops the class token, then takes the first remaining token for it.
        """
        return self.ln_post(tokens[:, 1])


class PixelShuffleResize(nn.Module):
    """Convolution and pixel shuffle that double a map ``num_steps`` times.

    Parameters
    ----------
    num_steps
        log2(16 / scale): from the CLIP grid to the LR grid.
    """

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(1, 4, 3, padding=1) for _ in range(num_steps))

    def forward(self, guidance: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, 1, hc, wc) -> (N, 1, *size), where size is (hc, wc) times 2^num_steps."""
        for step in self.steps:
            guidance = F.pixel_shuffle(step(guidance), 2)
        return guidance


class PublishedSegSR(SegSR):
    """The published SeG-SR, exactly.

    Parameters
    ----------
    scale
        2 or 4.
    bands
        3.
    embed_dim, num_groups, depth, num_heads
        Channels, groups, blocks per group and attention heads of HAT.
    encoder_options
        Arguments of `PublishedClipEncoder` that differ from ViT-B/16.

    Raises
    ------
    ModelError
        The factor is neither 2 nor 4, or the sizes do not fit.
    """

    def __init__(
        self,
        scale: int,
        bands: int = 3,
        *,
        embed_dim: int = 180,
        num_groups: int = 6,
        depth: int = 6,
        num_heads: int = 6,
        encoder_options: dict[str, Any] | None = None,
    ) -> None:
        if scale not in (2, 4):
            raise ModelError(f"the published SeG-SR enlarges by 2 or 4, not by {scale}")
        num_steps = {2: 3, 4: 2}[scale]
        encoder = PublishedClipEncoder(scale, **(encoder_options or {}))
        backbone = HAT(bands, embed_dim, num_groups, depth, num_heads=num_heads)
        super().__init__(
            encoder,
            SLM(encoder.token_dim, num_groups, num_heads=max(1, encoder.token_dim // 64)),
            backbone,
            [LMM(embed_dim, PixelShuffleResize(num_steps)) for _ in range(num_groups)],
            backbone.make_upsampler(scale),
        )


_HAB = "layers.{0}.residual_group.blocks.{1}"
_OCAB = "layers.{0}.residual_group.overlap_attn"
_CLIP = "clip1.base_model.model"
_GROUP = r"backbone\.groups\.(\d+)"
_BLOCK = rf"{_GROUP}\.blocks\.(\d+)"
_ADAPTED = r"encoder\.blocks\.(\d+)\.(attn\.qkv|mlp\.c_fc|mlp\.c_proj)"

RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # (pattern of our key, how the published tensors are combined, their keys; {0} is the pattern's
    # first group, {1:5+2} five times its second group plus two)
    (r"backbone\.(conv_first|conv_after_body)\.(\w+)", "copy", ("{0}.{1}",)),
    (r"backbone\.patch_norm\.(\w+)", "copy", ("patch_embed.norm.{0}",)),
    (
        rf"{_BLOCK}\.attn\.relative_position_bias\.table",
        "copy",
        (f"{_HAB}.attn.relative_position_bias_table",),
    ),
    (rf"{_BLOCK}\.conv_block\.conv1\.(\w+)", "copy", (f"{_HAB}.conv_block.cab.0.{{2}}",)),
    (rf"{_BLOCK}\.conv_block\.conv2\.(\w+)", "copy", (f"{_HAB}.conv_block.cab.2.{{2}}",)),
    (
        rf"{_BLOCK}\.conv_block\.squeeze\.(\w+)",
        "copy",
        (f"{_HAB}.conv_block.cab.3.attention.1.{{2}}",),
    ),
    (
        rf"{_BLOCK}\.conv_block\.excite\.(\w+)",
        "copy",
        (f"{_HAB}.conv_block.cab.3.attention.3.{{2}}",),
    ),
    (rf"{_BLOCK}\.(.+)", "copy", (f"{_HAB}.{{2}}",)),
    (
        rf"{_GROUP}\.overlap_attn\.attn\.relative_position_bias\.table",
        "copy",
        (f"{_OCAB}.relative_position_bias_table",),
    ),
    (rf"{_GROUP}\.overlap_attn\.(?:attn\.)?(.+)", "copy", (f"{_OCAB}.{{1}}",)),
    (rf"{_GROUP}\.conv\.(\w+)", "copy", ("layers.{0}.conv.{1}",)),
    (r"upsampler\.conv_before_upsample\.(\w+)", "copy", ("conv_before_upsample.0.{0}",)),
    (r"upsampler\.upsample\.(\d+)\.(\w+)", "copy", ("upsample.{0:2}.{1}",)),
    (r"upsampler\.conv_last\.(\w+)", "copy", ("conv_last.{0}",)),
    (
        rf"{_ADAPTED}\.weight",
        "lora",
        tuple(
            f"{_CLIP}.transformer.resblocks.{{0}}.{{1}}.{part}.weight"
            for part in ("base_layer", "lora_A.default", "lora_B.default")
        ),
    ),
    (
        rf"{_ADAPTED}\.bias",
        "copy",
        (f"{_CLIP}.transformer.resblocks.{{0}}.{{1}}.base_layer.bias",),
    ),
    (r"encoder\.blocks\.(.+)", "copy", (f"{_CLIP}.transformer.resblocks.{{0}}",)),
    (r"encoder\.(.+)", "copy", (f"{_CLIP}.{{0}}",)),
    (r"localization\.global_prompt\.prompt", "flatten", ("text_global",)),
    (r"localization\.global_prompt\.meta\.(.+)", "copy", ("meta_global.meta_net.{0}",)),
    (r"localization\.global_prompt\.film\.(\w+)", "copy", ("meta_fuser.fc.{0}",)),
    (r"localization\.global_prompt\.out\.(\w+)", "copy", ("meta_fuser.fc_out.{0}",)),
    (
        r"localization\.attention\.qkv\.weight",
        "concatenate",
        ("text_att.to_q.weight", "text_att.to_k.weight", "text_att.to_v.weight"),
    ),
    (r"localization\.attention\.out\.(\w+)", "copy", ("text_att.to_out.0.{0}",)),
    (r"localization\.fusions\.(\d+)\.gate\.(\w+)", "copy", ("spades.{0:5}.fc_x.{1}",)),
    (r"localization\.fusions\.(\d+)\.value\.(\w+)", "copy", ("spades.{0:5}.fc_y.{1}",)),
    (r"localization\.fusions\.(\d+)\.out\.(\w+)", "copy", ("spades.{0:5}.fc_out.{1}",)),
    (
        r"modulations\.(\d+)\.resize\.steps\.(\d+)\.(\w+)",
        "copy",
        ("spades.{0:5+2}.{1:2}.{2}",),
    ),
    (r"modulations\.(\d+)\.norm\.(\w+)", "copy", ("spades.{0:5+3}.{1}",)),
    (r"modulations\.(\d+)\.shared\.(\w+)", "copy", ("spades.{0:5+4}.mlp_shared.0.{1}",)),
    (
        r"modulations\.(\d+)\.gamma_beta\.(\w+)",
        "concatenate",
        ("spades.{0:5+4}.mlp_gamma.{1}", "spades.{0:5+4}.mlp_beta.{1}"),
    ),
)

UNUSED_KEYS = re.compile(
    r"relative_position_index_(SA|OCA)|norm\.(weight|bias)|spades\.\d+\.cross_attn\..+"
    r"|spades\.\d+\.param_free_norm\..+|mean"
)
"""Keys of a checkpoint that the network never uses, or that follow from the window size."""

LOCAL_PROMPT = re.compile(r"text_locals\.(\d+)")
"""Keys of the local prompts, one per group; the published checkpoints lack them."""

_FIELD = re.compile(r"\{(\d)(?::(\d)(?:\+(\d))?)?\}")


def published_parts(key: str) -> tuple[str, tuple[str, ...]]:
    """Return how our tensor ``key`` is combined, and the published keys it is combined from."""
    for pattern, combine, templates in RULES:
        if match := re.fullmatch(pattern, key):
            groups = match.groups()

            def substitute(field: re.Match[str], groups: tuple[str, ...] = groups) -> str:
                index, factor, offset = field.groups()
                group = groups[int(index)]
                return group if factor is None else str(int(group) * int(factor) + int(offset or 0))

            return combine, tuple(_FIELD.sub(substitute, template) for template in templates)
    raise KeyError(key)


LORA_ALPHA = 32.0
PROMPTS = "localization.local_prompts"


def is_published(entries: Mapping[str, Tensor]) -> bool:
    """Return whether a checkpoint is one of SeG-SR: HAT with a CLIP tower."""
    return "conv_first.weight" in entries and any(key.startswith("clip1.") for key in entries)


def read_published(
    path: str | Path, entries: Mapping[str, Tensor] | None = None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a published SeG-SR checkpoint.

    Parameters
    ----------
    path
        BasicSR file: a dict with ``params_ema`` (preferred) or ``params``. Code inside is refused,
        never run.
    entries
        Its tensors by key, if they have been read already.

    Returns
    -------
    spec, weights
        The model's specification, sizes read from shapes; and the state dict of its
        `PublishedSegSR`, with LoRA merged and the prompts completed.

    Raises
    ------
    ModelError
        The file is damaged, holds code, is not a SeG-SR checkpoint, or tensors are missing, unknown
        or of the wrong shape (the first five are named).
    """
    path = Path(path)
    if entries is None:
        entries = read_checkpoint(path)
    if not is_published(entries):
        raise ModelError(f"{path}: not a SeG-SR checkpoint (no CLIP tower with conv_first)")
    spec, prompts = _spec(entries, path)
    with torch.device("meta"):
        expected = PublishedSegSR(spec.scale, **spec.parameters).state_dict()
    parts = {key: published_parts(key) for key in expected if key != PROMPTS}
    used = {entry for _, names in parts.values() for entry in names}
    missing = sorted(used - entries.keys())
    extra = sorted(
        entry
        for entry in entries.keys() - used
        if not UNUSED_KEYS.fullmatch(entry) and not LOCAL_PROMPT.fullmatch(entry)
    )
    _check(path, [f"missing {k}" for k in missing] + [f"unexpected {k}" for k in extra])
    weights: dict[str, Tensor] = {PROMPTS: prompts}
    misfits = []
    for key, (combine, names) in parts.items():
        tensors = [entries[name] for name in names]
        try:
            weights[key] = _combine(combine, tensors)
            fits = weights[key].shape == expected[key].shape
        except RuntimeError:
            fits = False
        if not fits:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            misfits.append(f"{names[0]} has shape {shapes}, expected {tuple(expected[key].shape)}")
    _check(path, misfits)
    infinite = [key for key, value in weights.items() if not bool(value.isfinite().all())]
    _check(path, [f"{key} holds values that are not finite" for key in infinite])
    return spec, {key: weights[key] for key in expected}


def _check(path: Path, problems: list[str]) -> None:
    """Raise the first five problems, if there are any."""
    if problems:
        raise ModelError(
            f"{path}: {len(problems)} tensors do not fit a published SeG-SR checkpoint: "
            f"{'; '.join(problems[:5])}"
        )


def _count(entries: Mapping[str, Tensor], pattern: str) -> int:
    """Count the different values of the first group of ``pattern`` among the keys."""
    return len({match[1] for entry in entries if (match := re.match(pattern, entry))})


def _spec(entries: Mapping[str, Tensor], path: Path) -> tuple[ModelSpec, Tensor]:
    """Return the specification, sizes read from keys and shapes, and the prompts (groups, E)."""
    steps = _count(entries, r"upsample\.(\d+)\.weight")
    groups = _count(entries, r"layers\.(\d+)\.")
    table = entries.get("layers.0.residual_group.blocks.0.attn.relative_position_bias_table")
    scale = 2**steps
    resized = _count(entries, r"spades\.2\.(\d+)\.weight")
    if steps not in (1, 2) or resized != 4 - steps:
        raise ModelError(
            f"{path}: {steps} upsampling steps for the image and {resized} for guidance maps; "
            "published SeG-SR checkpoints have 1 and 3 (x2) or 2 and 2 (x4)"
        )
    if table is None or table.dim() != 2 or groups < 1:
        raise ModelError(f"{path}: not a SeG-SR checkpoint (no layers with attention)")
    parameters = {
        "num_groups": groups,
        "depth": _count(entries, r"layers\.0\.residual_group\.blocks\.(\d+)\."),
        "embed_dim": int(entries["conv_first.weight"].shape[0]),
        "num_heads": int(table.shape[1]),
        "encoder_options": {
            "layers": _count(entries, r"clip1\.base_model\.model\.transformer\.resblocks\.(\d+)\.")
        },
    }
    prompts, source = _local_prompts(entries, groups, scale, path)
    spec = ModelSpec(
        name=_name(path, scale),
        architecture="segsr-published",
        scale=scale,
        parameters=parameters,
        multiple_of=16,
        kernel="bicubic",
        tile=64,
        # 64 - 2 * 4 - 8 = 48: tiles advance by a multiple of 16, so the grid stays aligned.
        halo=4,
        overlap=8,
        licence="unknown (published checkpoint)",
        trained_on="see the publication, arXiv 2505.23010",
        notes=f"the published network, exactly; local prompts {source}",
    )
    return spec, prompts


def _local_prompts(
    entries: Mapping[str, Tensor], groups: int, scale: int, path: Path
) -> tuple[Tensor, str]:
    """Return the prompts (groups, E), and whether they are the file's or the seed-0 draw."""
    saved = {int(m[1]): v for k, v in entries.items() if (m := LOCAL_PROMPT.fullmatch(k))}
    if saved:
        if sorted(saved) != list(range(groups)) or any(v.numel() != 512 for v in saved.values()):
            raise ModelError(f"{path}: holds local prompts {sorted(saved)} for {groups} groups")
        return torch.stack([saved[i].flatten().float() for i in range(groups)]), "from the file"
    file = resources.files("georsr.models") / f"text_locals_seed0_x{scale}.npy"
    with file.open("rb") as stream:
        drawn = np.load(stream, allow_pickle=False)
    if groups > drawn.shape[1]:
        raise ModelError(
            f"{path}: has {groups} groups but no local prompts; they are known for "
            f"{drawn.shape[1]} groups"
        )
    return torch.from_numpy(drawn[:, :groups].T.copy()), "completed by their seed-0 draw"


def _combine(combine: str, tensors: list[Tensor]) -> Tensor:
    """Return one tensor of our network from the published ones."""
    if combine == "concatenate":
        return torch.cat([tensor.float() for tensor in tensors])
    if combine == "lora":
        base, down, up = (tensor.float() for tensor in tensors)
        return torch.addmm(base, up, down, alpha=LORA_ALPHA / max(1, len(down)))
    return tensors[0].float().flatten() if combine == "flatten" else tensors[0].float()


def _name(path: Path, scale: int) -> str:
    """Return a model name from a file name: lower case, hyphens, the true scale at the end."""
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower())
    stem = re.sub(r"(^|-)(x[0-9]+|[0-9]+x)(?=-|$)", "", stem).strip("-")
    return f"{stem or 'segsr-published'}-x{scale}"
