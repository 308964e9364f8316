"""A CLIP run's two towers in the layout of open_clip (Ilharco et al. 2021), which loads them as a model of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from simclr.augment.plain import Plain
from simclr.models.heads import LinearHead
from simclr.models.text import TextTransformer
from simclr.models.timm_folder import trunk_in_timm


def open_clip_weights(
    backbone: nn.Module, head: nn.Module, text: TextTransformer, logit_scale: Tensor
) -> dict[str, Tensor]:
    """The state dict of open_clip's CustomTextCLIP with a network of timm as its image tower.

    Raises ValueError for a head that is not linear, which open_clip has none of.
    """
    if not isinstance(head, LinearHead):
        raise ValueError("open_clip's image towers end in a linear projection without bias; train with head=clip")
    weights = {f"visual.trunk.{name}": tensor for name, tensor in backbone.state_dict().items()}
    weights |= {"visual.head.proj.weight": head.weight, "logit_scale": logit_scale}
    weights |= {f"text.{name}": tensor for name, tensor in text.state_dict().items() if name != "_extra_state"}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def open_clip_config(backbone: Mapping[str, Any], text: TextTransformer, plain: Plain) -> dict[str, Any]:
    """What open_clip_config.json holds: the model, and how it is shown images.

    backbone: as in configs/backbone. Raises ValueError for one whose weights timm has other names for.
    """
    name, _ = trunk_in_timm(backbone)
    vision = {
        "timm_model_name": name,
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": plain.size,
    }
    words = {
        "context_length": text.context,
        "vocab_size": text.tokenizer.vocabulary,
        "width": text.token_embedding.embedding_dim,
        "heads": text.heads,
        "layers": len(text.transformer.resblocks),
        "pool_type": "eos",
        "eos_id": text.tokenizer.end,
        "pad_id": 0,
    }
    model = {"embed_dim": text.out_features, "vision_cfg": vision, "text_cfg": words, "custom_text": True}
    shown = {
        "size": plain.size,
        "mean": plain.mean or (0.0,) * 3,
        "std": plain.std or (1.0,) * 3,
        "resize_mode": "shortest",
    }
    return {"model_cfg": model, "preprocess_cfg": shown}
