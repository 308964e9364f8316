"""An encoder as a folder that timm (Wightman 2019) makes a model of by itself: local-dir:FOLDER."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simclr.augment.plain import Plain

# Networks whose parameters timm calls by the names that torchvision does.
IN_TIMM = {
    "simclr.models.backbone.resnet18_encoder": "resnet18",
    "simclr.models.backbone.resnet34_encoder": "resnet34",
    "simclr.models.backbone.resnet50_encoder": "resnet50",
}


def trunk_in_timm(backbone: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """timm's name and arguments of an image encoder, without its classifier.

    backbone: as in configs/backbone. Raises ValueError for one whose weights timm has other names for.
    """
    if backbone["_target_"] == "simclr.models.timm_backbone.timm_encoder":
        import timm

        about, options = timm.get_pretrained_cfg(backbone["name"]), dict(backbone.get("options") or {})
        if about is not None and about.fixed_input_size and backbone.get("image_size") is not None:
            options = {"img_size": backbone["image_size"]} | options
        return backbone["name"], options
    name = IN_TIMM.get(backbone["_target_"])
    if name is None or backbone.get("stem") != "standard":
        raise ValueError(
            f"timm has other names for the weights of {backbone['_target_'].rpartition('.')[2]} with "
            f"stem={backbone.get('stem')}; it takes backbone=timm, or resnet18, resnet34, resnet50 with stem=standard"
        )
    return name, {}


def timm_config(backbone: Mapping[str, Any], num_features: int, plain: Plain) -> dict[str, Any]:
    """What config.json holds: the model, and how it is shown images.

    Raises ValueError for a backbone whose weights timm has other names for.
    """
    name, arguments = trunk_in_timm(backbone)
    assert plain.size is not None, "a run has one"
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": num_features,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, plain.size, plain.size],
            "interpolation": plain.interpolation,
            "crop_pct": 1.0,
            "mean": list(plain.mean or (0.0, 0.0, 0.0)),
            "std": list(plain.std or (1.0, 1.0, 1.0)),
            "num_classes": 0,
        },
    }
