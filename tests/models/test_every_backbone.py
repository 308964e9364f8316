"""What every backbone keeps to: a new file in configs/backbone is tested against torchvision's network of that name."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from simclr.errors import InputError
from simclr.models.maps import LastMap, feature_maps
from simclr.runs.assemble import check_sizes
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from simclr.runs.weights import backbone_factory

BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))
WITH_STEM = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml") if "\nstem:" in path.read_text("utf-8"))
CLASSIFIERS = ("fc", "classifier")
# One of each family: batch norm with an activation in it, layer norm, a layer behind the pool, one size of images.
OF_TIMM = ("resnet18", "test_efficientnet", "test_convnext", "mobilenetv3_small_050", "test_vit")
EVERY = [(name, ()) for name in BACKBONES if name != "timm"] + [
    ("timm", (f"backbone.name={name}",)) for name in OF_TIMM
]


def made(name: str, *overrides: str) -> nn.Module:
    return backbone_factory(compose_config(f"backbone={name}", *overrides).backbone)()


def theirs_of(name: str, overrides: tuple[str, ...], side: int) -> nn.Module:
    if name == "timm":
        model = overrides[0].partition("=")[2]
        size: dict[str, Any] = {"img_size": side} if model == "test_vit" else {}
        return timm.create_model(model, num_classes=0, **size)
    return getattr(torchvision.models, name)()


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(("name", "overrides"), EVERY, ids=lambda value: "-".join(value) if value else "")
def test_features_are_those_of_the_library_that_it_is_from(name, overrides, side):
    torch.manual_seed(0)  # of weights and images; other ones may round past the bound, one feature in thousands
    ours, theirs = made(name, *overrides, f"augmentation.size={side}").eval(), theirs_of(name, overrides, side).eval()
    left, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert {key.split(".")[0] for key in left} <= (set() if name == "timm" else set(CLASSIFIERS))
    assert not unexpected
    for classifier in CLASSIFIERS:
        if name != "timm" and hasattr(theirs, classifier):
            setattr(theirs, classifier, nn.Identity())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert all(parameter.requires_grad for parameter in ours.parameters())
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = ours(images.contiguous(memory_format=torch.channels_last))
        assert features.shape == (2, ours.num_features)
        torch.testing.assert_close(features, theirs(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "overrides"), EVERY, ids=lambda value: "-".join(value) if value else "")
def test_the_maps_of_its_stages_grow_coarser_and_the_last_has_the_features_for_its_mean(name, overrides):
    torch.manual_seed(0)
    backbone = made(name, *overrides, "augmentation.size=64").eval()
    with torch.no_grad():
        images = torch.rand(2, 3, 64, 64)
        maps, features = feature_maps(backbone, images), backbone(images)
        last, mean = (LastMap(backbone, cells)(images) for cells in (64, 1))
    sides = [one.shape[-1] for one in maps]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] >= 2
    assert torch.equal(last, maps[-1].flatten(1))
    torch.testing.assert_close(mean, maps[-1].mean(dim=(2, 3)))
    if name != "timm":  # whose networks may have a norm or a layer between
        torch.testing.assert_close(mean, features)


@pytest.mark.parametrize("name", WITH_STEM)
def test_a_small_stem_has_maps_of_twice_the_side(name):
    maps = []
    for stem in ("standard", "small"):
        encoder = made(name, f"backbone.stem={stem}").eval()
        last = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)][-1]
        last.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
        with torch.no_grad():
            encoder(torch.rand(1, 3, 64, 64))
    assert maps == [2, 4]


@pytest.mark.parametrize("name", WITH_STEM)
def test_another_stem_is_refused_by_name(name):
    with pytest.raises(InputError, match=r"backbone\.stem=tiny is not known; choose standard or small"):
        made(name, "backbone.stem=tiny")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "backbone.name has no default; give it a value"),
        (("backbone.name=resnt18",), "backbone.name=resnt18 is no model of timm; did you mean resnet18"),
        (("backbone.name=hf-hub:timm/resnet18",), "is no model of timm"),
        (("backbone.name=test_vit", "+backbone.options.depht=3"), "backbone.name=test_vit cannot be made with .*depht"),
        (("backbone.name=test_vit", "+backbone.options.checkpoint_path=x"), "options.checkpoint_path=x is not usable"),
        (("backbone.name=test_vit", "+backbone.options.pretrained=true"), "options.pretrained=True is not usable"),
    ],
)
def test_what_timm_cannot_make_is_refused_in_one_line(overrides, message):
    with pytest.raises(InputError, match=message) as refused:
        made("timm", *overrides)
    assert "\n" not in str(refused.value)


def test_options_reach_timm():
    assert made("timm", "backbone.name=test_vit", "+backbone.options.patch_size=8").patch_embed.patch_size == (8, 8)


def test_views_of_a_size_that_a_backbone_cannot_take_are_refused():
    vit = "backbone.name=vit_tiny_patch16_224"
    transformer = made("timm", vit, "augmentation.size=64")
    check_sizes(transformer, {64})
    with pytest.raises(InputError, match="cannot take views of 32 pixels"):
        check_sizes(transformer, {64, 32})
    check_sizes(made("timm", vit, "+backbone.options.dynamic_img_size=true"), {64, 32})


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "timm"])
def test_begins_with_weights_of_ones_own(name, tmp_path):
    theirs = getattr(torchvision.models, name)()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = made(name, f"backbone.pretrained_path={tmp_path}/weights.pth").state_dict()
    assert all(torch.equal(ours[key], theirs.state_dict()[key]) for key in ours)


def test_weights_that_have_changed_since_are_refused(tmp_path):
    path = Path(tmp_path, "weights.pth")
    torch.save(torchvision.models.resnet18().state_dict(), path)
    make = backbone_factory(compose_config(f"backbone.pretrained_path={path}").backbone)
    torch.save(torchvision.models.resnet18().state_dict(), path)
    with pytest.raises(InputError, match="are not those that this run began with"):
        make()
