"""Published checkpoints: from a BasicSR ``.pth`` to a spec and weights of ours.

What the file holds and lacks was found by running the published network: it contains the CLIP
tower with LoRA beside it, modules that are never called, and not the six local prompts, which
were drawn under seed 0 when the network was built and never trained nor saved. The draw is
repeatable, and completes the checkpoint (``text_locals_seed0_x{2,4}.npy``, (512, 6), one column
per group).

Names of the published checkpoint: for every tensor of ours, what it is made of there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from georsr.errors import ModelError
from georsr.models.checkpoint import read_checkpoint
from georsr.models.segsr.segsr import build
from georsr.models.spec import ModelSpec

RULES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    # (pattern of our name, how the parts combine, names of the parts; {} counts from the pattern)
    (r"backbone\.head\.(\w+)", "one", ("conv_first.{0}",)),
    (r"backbone\.groups\.0\.entry\.(\w+)", "one", ("patch_embed.norm.{0}",)),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.attention\.bias_table",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.attn.relative_position_bias_table",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.attention\.(.+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.attn.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.convolution\.conv1\.(\w+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.conv_block.cab.0.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.convolution\.conv2\.(\w+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.conv_block.cab.2.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.convolution\.squeeze\.(\w+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.conv_block.cab.3.attention.1.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.convolution\.excite\.(\w+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.conv_block.cab.3.attention.3.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.blocks\.(\d+)\.(norm[12]\..+|mlp\..+)",
        "one",
        ("layers.{0}.residual_group.blocks.{1}.{2}",),
    ),
    (
        r"backbone\.groups\.(\d+)\.overlap\.attention\.bias_table",
        "one",
        ("layers.{0}.residual_group.overlap_attn.relative_position_bias_table",),
    ),
    (
        r"backbone\.groups\.(\d+)\.overlap\.(?:attention\.)?(.+)",
        "one",
        ("layers.{0}.residual_group.overlap_attn.{1}",),
    ),
    (r"backbone\.groups\.(\d+)\.conv\.(\w+)", "one", ("layers.{0}.conv.{1}",)),
    (r"tail\.body\.(\w+)", "one", ("conv_after_body.{0}",)),
    (r"tail\.before\.(\w+)", "one", ("conv_before_upsample.0.{0}",)),
    (r"tail\.steps\.(\d+)\.(\w+)", "one", ("upsample.{0:2}.{1}",)),
    (r"tail\.last\.(\w+)", "one", ("conv_last.{0}",)),
    (
        r"encoder\.blocks\.(\d+)\.(attn\.qkv|mlp\.c_fc|mlp\.c_proj)\.weight",
        "lora",
        tuple(
            f"clip1.base_model.model.transformer.resblocks.{{0}}.{{1}}.{part}.weight"
            for part in ("base_layer", "lora_A.default", "lora_B.default")
        ),
    ),
    (
        r"encoder\.blocks\.(\d+)\.(attn\.qkv|mlp\.c_fc|mlp\.c_proj)\.bias",
        "one",
        ("clip1.base_model.model.transformer.resblocks.{0}.{1}.base_layer.bias",),
    ),
    (
        r"encoder\.blocks\.(\d+)\.(.+)",
        "one",
        ("clip1.base_model.model.transformer.resblocks.{0}.{1}",),
    ),
    (r"encoder\.(.+)", "one", ("clip1.base_model.model.{0}",)),
    (r"localization\.scene_prompt\.prompt", "flat", ("text_global",)),
    (r"localization\.scene_prompt\.meta\.(.+)", "one", ("meta_global.meta_net.{0}",)),
    (r"localization\.scene_prompt\.film\.(\w+)", "one", ("meta_fuser.fc.{0}",)),
    (r"localization\.scene_prompt\.out\.(\w+)", "one", ("meta_fuser.fc_out.{0}",)),
    (
        r"localization\.attention\.qkv\.weight",
        "join",
        ("text_att.to_q.weight", "text_att.to_k.weight", "text_att.to_v.weight"),
    ),
    (r"localization\.attention\.out\.(\w+)", "one", ("text_att.to_out.0.{0}",)),
    (r"localization\.fusions\.(\d+)\.gate\.(\w+)", "one", ("spades.{0:5}.fc_x.{1}",)),
    (r"localization\.fusions\.(\d+)\.value\.(\w+)", "one", ("spades.{0:5}.fc_y.{1}",)),
    (r"localization\.fusions\.(\d+)\.out\.(\w+)", "one", ("spades.{0:5}.fc_out.{1}",)),
    (
        r"modulations\.(\d+)\.resize\.steps\.(\d+)\.(\w+)",
        "one",
        ("spades.{0:5+2}.{1:2}.{2}",),
    ),
    (r"modulations\.(\d+)\.norm\.(\w+)", "one", ("spades.{0:5+3}.{1}",)),
    (r"modulations\.(\d+)\.shared\.(\w+)", "one", ("spades.{0:5+4}.mlp_shared.0.{1}",)),
    (
        r"modulations\.(\d+)\.gamma_beta\.(\w+)",
        "join",
        ("spades.{0:5+4}.mlp_gamma.{1}", "spades.{0:5+4}.mlp_beta.{1}"),
    ),
)

UNUSED_KEYS = re.compile(
    r"relative_position_index_(SA|OCA)|norm\.(weight|bias)|spades\.\d+\.cross_attn\..+"
    r"|spades\.\d+\.param_free_norm\..+|mean"
)
"""Entries the published network stores and never uses, or that follow from the window size."""

LOCAL_PROMPT = re.compile(r"text_locals\.(\d+)")
"""One prompt per group; the published checkpoints lack them."""

_FIELD = re.compile(r"\{(\d)(?::(\d)(?:\+(\d))?)?\}")


def parts(name: str) -> tuple[str, tuple[str, ...]]:
    """How ``name`` (ours) is combined, and from which published entries.

    In a rule, ``{1:5+2}`` stands for five times the pattern's second group, plus two.
    """
    for pattern, combine, templates in RULES:
        if match := re.fullmatch(pattern, name):
            found = match.groups()

            def number(field: re.Match[str], found: tuple[str, ...] = found) -> str:
                index, factor, offset = field.groups()
                value = found[int(index)]
                return value if factor is None else str(int(value) * int(factor) + int(offset or 0))

            return combine, tuple(_FIELD.sub(number, template) for template in templates)
    raise KeyError(name)


LORA_ALPHA = 32.0
PROMPTS = "localization.local_prompts"


def is_published(entries: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is one of SeG-SR: a backbone with a CLIP tower beside it."""
    return "conv_first.weight" in entries and any(name.startswith("clip1.") for name in entries)


def read_published(
    path: str | Path, entries: Mapping[str, Tensor] | None = None
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Read a published SeG-SR checkpoint.

    Parameters
    ----------
    path
        BasicSR file: a dict with ``params_ema`` (preferred) or ``params``. Never executed: code
        inside is refused.
    entries
        Its names and tensors, where they have been read already.

    Returns
    -------
    spec, weights
        The model's contract, sizes read from shapes; and the state dict of the network that
        :func:`georsr.models.segsr.segsr.build` makes from it, LoRA merged, prompts completed.

    Raises
    ------
    ModelError
        The file is damaged, holds code, is not a SeG-SR checkpoint, or entries are missing, too
        many or of the wrong shape (the first five are named).
    """
    path = Path(path)
    if entries is None:
        entries = read_checkpoint(path)
    if not is_published(entries):
        raise ModelError(f"{path}: not a SeG-SR checkpoint (no CLIP tower beside conv_first)")
    spec, drawn = _spec(entries, path)
    with torch.device("meta"):
        expected = build(spec).state_dict()
    recipe = {name: parts(name) for name in expected if name != PROMPTS}
    used = {entry for _, names in recipe.values() for entry in names}
    missing = sorted(used - entries.keys())
    extra = sorted(
        entry
        for entry in entries.keys() - used
        if not UNUSED_KEYS.fullmatch(entry) and not LOCAL_PROMPT.fullmatch(entry)
    )
    _complain(path, [f"missing {k}" for k in missing] + [f"unexpected {k}" for k in extra])
    weights: dict[str, Tensor] = {PROMPTS: drawn}
    wrong = []
    for name, (combine, names) in recipe.items():
        found = [entries[entry] for entry in names]
        try:
            weights[name] = _combined(combine, found)
            fits = weights[name].shape == expected[name].shape
        except RuntimeError:
            fits = False
        if not fits:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
            wrong.append(f"{names[0]} has shape {shapes}, expected {tuple(expected[name].shape)}")
    _complain(path, wrong)
    infinite = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    _complain(path, [f"{name} holds values that are not finite" for name in infinite])
    return spec, {name: weights[name] for name in expected}


def _complain(path: Path, problems: list[str]) -> None:
    if problems:
        raise ModelError(
            f"{path}: {len(problems)} tensors do not fit a published SeG-SR checkpoint: "
            f"{'; '.join(problems[:5])}"
        )


def _count(entries: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand in the first group of ``pattern``."""
    return len({match[1] for entry in entries if (match := re.match(pattern, entry))})


def _spec(entries: Mapping[str, Tensor], path: Path) -> tuple[ModelSpec, Tensor]:
    """The contract, sizes read from names and shapes; and the local prompts (groups, E)."""
    steps = _count(entries, r"upsample\.(\d+)\.weight")
    groups = _count(entries, r"layers\.(\d+)\.")
    table = entries.get("layers.0.residual_group.blocks.0.attn.relative_position_bias_table")
    scale = 2**steps
    resized = _count(entries, r"spades\.2\.(\d+)\.weight")
    if steps not in (1, 2) or resized != 4 - steps:
        raise ModelError(
            f"{path}: {steps} upsampling steps in the tail and {resized} for guidance maps; "
            "published SeG-SR checkpoints have 1 and 3 (x2) or 2 and 2 (x4)"
        )
    if table is None or table.dim() != 2 or groups < 1:
        raise ModelError(f"{path}: not a SeG-SR checkpoint (no layers with attention)")
    parameters = {
        "published": True,
        "groups": groups,
        "blocks": _count(entries, r"layers\.0\.residual_group\.blocks\.(\d+)\."),
        "width": int(entries["conv_first.weight"].shape[0]),
        "heads": int(table.shape[1]),
        "clip": {
            "layers": _count(entries, r"clip1\.base_model\.model\.transformer\.resblocks\.(\d+)\.")
        },
    }
    prompts, source = _local_prompts(entries, groups, scale, path)
    spec = ModelSpec(
        name=_name(path, scale),
        architecture="segsr",
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
    """Prompts (groups, E) and where they come from: the file, or the seed-0 draw."""
    saved = {int(m[1]): v for k, v in entries.items() if (m := LOCAL_PROMPT.fullmatch(k))}
    if saved:
        if sorted(saved) != list(range(groups)) or any(v.numel() != 512 for v in saved.values()):
            raise ModelError(f"{path}: holds local prompts {sorted(saved)} for {groups} groups")
        return torch.stack([saved[i].flatten().float() for i in range(groups)]), "from the file"
    file = resources.files("georsr.models.segsr") / f"text_locals_seed0_x{scale}.npy"
    with file.open("rb") as stream:
        drawn = np.load(stream, allow_pickle=False)
    if groups > drawn.shape[1]:
        raise ModelError(
            f"{path}: has {groups} groups but no local prompts; they are known for "
            f"{drawn.shape[1]} groups"
        )
    return torch.from_numpy(drawn[:, :groups].T.copy()), "completed by their seed-0 draw"


def _combined(combine: str, found: list[Tensor]) -> Tensor:
    """One tensor of ours from its published parts."""
    if combine == "join":
        return torch.cat([tensor.float() for tensor in found])
    if combine == "lora":
        base, down, up = (tensor.float() for tensor in found)
        return torch.addmm(base, up, down, alpha=LORA_ALPHA / max(1, len(down)))
    return found[0].float().flatten() if combine == "flat" else found[0].float()


def _name(path: Path, scale: int) -> str:
    """A model name from a file name: lower case, hyphens, and the true scale at the end."""
    stem = re.sub(r"[^a-z0-9]+", "-", path.stem.lower())
    stem = re.sub(r"(^|-)(x[0-9]+|[0-9]+x)(?=-|$)", "", stem).strip("-")
    return f"{stem or 'segsr-published'}-x{scale}"
