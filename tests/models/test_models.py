"""Backbones against torchvision, heads against the recipe's parameter counts."""

import pytest
import torch
from torchvision.models import resnet18

from simclr.models.backbone import resnet18_encoder
from simclr.models.heads import BatchNormHead, ProjectionHead
from simclr.models.small_maps import SmallMapConv2d, convolution_by_pixels
from simclr.runs.checkpoint import export_backbone


def test_weights_move_both_ways_with_torchvision(tmp_path):
    from safetensors.torch import load_file

    theirs, ours = resnet18(weights=None).eval(), resnet18_encoder("standard").eval()
    images = torch.rand(2, 3, 64, 64)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert unexpected == ["fc.weight", "fc.bias"]
    headless = torch.nn.Sequential(*list(theirs.children())[:-1], torch.nn.Flatten())
    torch.testing.assert_close(ours(images), headless(images), atol=1e-5, rtol=1e-4)

    other = resnet18_encoder("standard").eval().to(memory_format=torch.channels_last)
    export_backbone(other, tmp_path / "backbone.safetensors")
    missing, unexpected = theirs.load_state_dict(load_file(tmp_path / "backbone.safetensors"), strict=False)
    assert missing == ["fc.weight", "fc.bias"]
    assert not unexpected
    torch.testing.assert_close(other(images), headless(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("stem", "side"), [("standard", 2), ("small", 4)])
def test_stems(stem, side):
    encoder = resnet18_encoder(stem)
    maps = []
    encoder.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output.shape))
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, encoder.num_features) == (2, 512)
    assert maps == [(2, 512, side, side)]
    assert encoder.state_dict().keys() == {k for k in resnet18().state_dict() if not k.startswith("fc.")}


def test_a_small_stem_loads_into_torchvisions_network_as_readme_says():
    ours = resnet18_encoder("small").eval()
    theirs = resnet18(weights=None)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    loaded = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert loaded.missing_keys == ["fc.weight", "fc.bias"]
    assert not loaded.unexpected_keys
    theirs.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.eval()(images))


def test_an_unknown_stem_is_named():
    with pytest.raises(ValueError, match="stem=tiny is not known; choose standard or small"):
        resnet18_encoder("tiny")


@pytest.mark.parametrize(("hidden", "parameters"), [(256, 164_224), (512, 328_320)])
def test_heads_have_the_recipes_parameter_counts(hidden, parameters):
    head = ProjectionHead(512, hidden, 128)
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert head(torch.rand(4, 512)).shape == (4, 128)


def test_heads_with_batch_norm_are_those_of_the_papers():
    """BYOL's by its parameters (Grill et al. 2020, section 3.3); SimSiam's ends in a batch norm."""
    head = BatchNormHead(512, 4096, 256)
    assert sum(p.numel() for p in head.parameters()) == 512 * 4096 + 2 * 4096 + 4096 * 256 + 256
    projected = BatchNormHead(512, 64, 32, hidden_layers=2, norm_output="plain")(torch.rand(50, 512))
    torch.testing.assert_close(projected.mean(dim=0), torch.zeros(32), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="hidden_layers=0 is not usable"):
        BatchNormHead(512, 64, 32, hidden_layers=0)
    with pytest.raises(ValueError, match="norm_output=yes is not known"):
        BatchNormHead(512, 64, 32, norm_output="yes")


def copies(dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """torchvision's ResNet-18 without its classifier, and ours with the same weights."""
    torch.manual_seed(0)
    theirs = resnet18(weights=None)
    theirs.fc = torch.nn.Identity()
    ours = resnet18_encoder("standard")
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_outputs_and_every_gradient_are_those_of_torchvision(dtype, tolerance, side):
    """Small maps as matrix products and the ReLU after the max-pool, against the stock network in train mode."""
    theirs, ours = copies(dtype)
    random = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, side, side, generator=random, dtype=dtype)
    direction = torch.randn(16, 512, generator=random, dtype=dtype)
    features = []
    for network in (theirs, ours):
        features.append(network(images.contiguous(memory_format=torch.channels_last)))
        (features[-1] * direction).sum().backward()
    assert (features[1] - features[0]).norm() <= tolerance * features[0].norm()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        difference = gradients[name].grad - parameter.grad
        assert difference.norm() <= 10 * tolerance * parameter.grad.norm(), name
    for (name, buffer), other in zip(theirs.named_buffers(), ours.buffers(), strict=True):
        torch.testing.assert_close(other, buffer, msg=name)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (5, 1, 2), (3, 1, 2)])
def test_convolution_by_pixels_is_the_convolution(side, kernel, stride, padding):
    random = torch.Generator().manual_seed(0)
    images = torch.randn(3, 4, side, side, generator=random, dtype=torch.float64)
    weight = torch.randn(6, 4, kernel, kernel, generator=random, dtype=torch.float64)
    theirs = torch.nn.functional.conv2d(images, weight, stride=stride, padding=padding)
    torch.testing.assert_close(convolution_by_pixels(images, weight, stride, padding), theirs)


def test_small_maps_are_taken_where_they_are_measured_to_be_faster_and_can_be_switched_off():
    encoder = resnet18_encoder("standard")
    at_64_pixels = encoder.layer4[1].conv1
    assert isinstance(at_64_pixels, SmallMapConv2d)
    assert at_64_pixels.by_pixels_is_faster(torch.empty(8, 512, 2, 2))
    assert not at_64_pixels.by_pixels_is_faster(torch.empty(8, 512, 2, 2, device="meta"))
    assert not encoder.layer1[0].conv1.by_pixels_is_faster(torch.empty(8, 64, 16, 16))
    plain = resnet18_encoder("standard", small_maps=False)
    assert not any(isinstance(module, SmallMapConv2d) for module in plain.modules())
    assert plain.state_dict().keys() == encoder.state_dict().keys()
