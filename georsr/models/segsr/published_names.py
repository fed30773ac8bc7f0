"""Names of the published checkpoint: for every tensor of ours, what it is made of there."""

from __future__ import annotations

import re

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

DEAD = re.compile(
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
