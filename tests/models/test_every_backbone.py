"""What every backbone keeps to: a new file in configs/backbone is tested against torchvision's network of that name."""

import pytest
import torch
import torchvision
from torch import nn

from simclr.errors import InputError
from simclr.runs.compose import CONFIGS, build, compose_config

BACKBONES = sorted(path.stem for path in (CONFIGS / "backbone").glob("*.yaml"))
CLASSIFIERS = ("fc", "classifier")


@pytest.fixture(params=BACKBONES)
def pair(request) -> tuple[nn.Module, nn.Module]:
    """Ours, and torchvision's with the same weights and nothing for a classifier, both in eval mode."""
    ours = build(compose_config(f"backbone={request.param}").backbone)
    theirs = getattr(torchvision.models, request.param)()
    left, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert {name.split(".")[0] for name in left} <= set(CLASSIFIERS)
    assert not unexpected
    for name in CLASSIFIERS:
        if hasattr(theirs, name):
            setattr(theirs, name, nn.Identity())
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize("side", [32, 64])
def test_features_are_those_of_torchvision(pair, side):
    ours, theirs = pair
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        features = ours(images.contiguous(memory_format=torch.channels_last))
        assert features.shape == (2, ours.num_features)
        torch.testing.assert_close(features, theirs(images), atol=1e-5, rtol=1e-4)


def test_it_has_as_many_parameters_and_the_same_ones_each_time(pair):
    ours, theirs = pair
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert all(parameter.requires_grad for parameter in ours.parameters())


@pytest.mark.parametrize("name", BACKBONES)
def test_a_small_stem_has_maps_of_twice_the_side(name):
    maps = []
    for stem in ("standard", "small"):
        encoder = build(compose_config(f"backbone={name}", f"backbone.stem={stem}").backbone).eval()
        last = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)][-1]
        last.register_forward_hook(lambda module, inputs, output: maps.append(output.shape[-1]))
        with torch.no_grad():
            encoder(torch.rand(1, 3, 64, 64))
    assert maps == [2, 4]


@pytest.mark.parametrize("name", BACKBONES)
def test_another_stem_is_refused_by_name(name):
    with pytest.raises(InputError, match=r"backbone\.stem=tiny is not known; choose standard or small"):
        build(compose_config(f"backbone={name}", "backbone.stem=tiny").backbone)
