"""Backbones against torchvision, heads against the recipe's parameter counts."""

import pytest
import torch
from torchvision.models import resnet18

from simclr.checkpoint import export_backbone
from simclr.errors import InputError
from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import ProjectionHead


def test_weights_move_both_ways_with_torchvision(tmp_path):
    from safetensors.torch import load_file

    theirs, ours = resnet18(weights=None).eval(), resnet18_encoder("standard").eval()
    pictures = torch.rand(2, 3, 64, 64)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["fc.weight", "fc.bias"]
    headless = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.Flatten())
    assert torch.equal(ours(pictures), headless(pictures))

    other = resnet18_encoder("standard").eval().to(memory_format=torch.channels_last)
    export_backbone(other, tmp_path / "backbone.safetensors")
    missing, unexpected = theirs.load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    torch.testing.assert_close(other(pictures), headless(pictures), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stem", "side"), [("standard", 2), ("small", 4)])
def test_stems(stem, side):
    encoder = resnet18_encoder(stem)
    maps = []
    encoder.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, encoder.num_features) == (2, 512)
    assert maps == [(2, 512, side, side)]
    assert encoder.state_dict().keys() == {k for k in resnet18().state_dict() if not k.startswith("fc.")}


def test_an_unknown_stem_is_named():
    with pytest.raises(InputError, match="stem=tiny is not known; choose standard or small"):
        resnet18_encoder("tiny")


@pytest.mark.parametrize(("hidden", "parameters"), [(256, 164_224), (512, 328_320)])
def test_heads_have_the_recipes_parameter_counts(hidden, parameters):
    head = ProjectionHead(512, hidden, 128)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert head(torch.rand(4, 512)).shape == (4, 128)
