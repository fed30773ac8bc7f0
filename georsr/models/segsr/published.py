"""Published checkpoints: from a BasicSR ``.pth`` to a spec and weights of ours.

What the file holds and lacks was found by running the published network: it contains the CLIP
tower with LoRA beside it, modules that are never called, and not the six local prompts, which
were drawn under seed 0 when the network was built and never trained nor saved. The draw is
repeatable, and completes the checkpoint (``text_locals_seed0_x{2,4}.npy``, (512, 6), one column
per group).
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
from georsr.models.segsr.network import build
from georsr.models.segsr.published_names import DEAD, LOCAL_PROMPT, parts
from georsr.models.spec import ModelSpec

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
        :func:`georsr.models.segsr.network.build` makes from it, LoRA merged, prompts completed.

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
        if not DEAD.fullmatch(entry) and not LOCAL_PROMPT.fullmatch(entry)
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
