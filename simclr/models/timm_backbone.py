"""Image encoders of timm (Wightman 2019), without their classifier, under timm's own state-dict keys."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, cast

import timm

from simclr.checks import is_whole
from simclr.errors import first_line
from simclr.models.backbone import Encoder
from simclr.models.small_maps import use_small_maps

# What would read or fetch files, which a checkpoint's configuration must not do, or make no encoder of it.
NOT_FOR_USERS = ("checkpoint_path", "cache_dir", "num_classes", "features_only")
REFUSED = "an encoder begins with new weights, or with those at backbone.pretrained_path, and has no classifier"


def timm_encoder(
    name: str, image_size: int | None, options: Mapping[str, Any] | None = None, small_maps: bool = True
) -> Encoder:
    """timm's model of that name up to its pooled features: float [B, 3, H, W] to [B, num_features].

    name: of timm.list_models(), as "convnext_atto". Weights are new ones: none are downloaded.
    image_size: pixels of the views, for networks that are made for one size, as vision transformers are; None: timm's.
    options: further arguments of timm.create_model, as patch_size. small_maps: as in `resnet18_encoder`.
    Raises ValueError for a name that timm does not know, and for what it cannot make of the rest.
    """
    if not isinstance(name, str) or not timm.is_model(name):
        known = [model for model in timm.list_models() if not model.startswith("test_")]
        close = difflib.get_close_matches(str(name), known, n=3)
        hint = f"did you mean {' or '.join(close)}" if close else "timm.list_models() has those that it knows"
        raise ValueError(f"name={name} is no model of timm; {hint}")
    options = dict(options or {})
    for key in options:
        if key.startswith("pretrained") or key in NOT_FOR_USERS:
            raise ValueError(f"options.{key}={options[key]} is not usable: {REFUSED}")
    if not isinstance(small_maps, bool):
        raise ValueError(f"small_maps={small_maps} is not usable; choose true or false")
    if image_size is not None and (not is_whole(image_size) or image_size < 1):
        raise ValueError(f"image_size={image_size} is not usable; it is a whole number of pixels")
    about = timm.get_pretrained_cfg(name)
    made_for_one_size = about is not None and about.fixed_input_size
    arguments: dict[str, Any] = {"img_size": image_size} if made_for_one_size and image_size is not None else {}
    arguments |= options
    try:
        network: Any = timm.create_model(name, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        reason = first_line(error)
        raise ValueError(f"name={name} cannot be made with {arguments} ({reason})") from error
    network.num_features = network.head_hidden_size  # what leaves the network, where a layer follows the pool
    if small_maps:
        use_small_maps(network)
    return cast(Encoder, network)
