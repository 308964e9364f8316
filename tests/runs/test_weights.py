"""State dicts of other libraries, in the forms that these write them, against their own networks' features."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from simclr.errors import InputError
from simclr.models.backbone import resnet18_encoder
from simclr.runs.compose import compose_config
from simclr.runs.weights import backbone_factory, put_into, read_weights


class OfLightly(nn.Module):
    """As lightly's examples write a method: torchvision's network less its classifier, and a slow copy of it."""

    def __init__(self, network: nn.Module, copy: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(network.children())[:-1])
        self.projection_head = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8))
        self.backbone_momentum = nn.Sequential(*list(copy.children())[:-1])


def renamed(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network.state_dict().items()}


@pytest.fixture
def theirs() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.resnet18().eval()


def features(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32))


FORMS = {
    "torchvision": lambda net: net.state_dict(),
    "moco": lambda net: {"epoch": 3, "state_dict": renamed(net, "module.encoder_q.")},
    "solo-learn": lambda net: {"state_dict": renamed(net, "backbone."), "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda net: {"model": renamed(net, "_orig_mod.")},
    "lightly": lambda net: {"state_dict": OfLightly(net, torchvision.models.resnet18()).state_dict()},
    "half": lambda net: {name: t.half() if t.is_floating_point() else t for name, t in net.state_dict().items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("new_format", [True, False])
def test_a_network_is_found_wherever_a_file_keeps_it(theirs, form, new_format, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](theirs), path, _use_new_zipfile_serialization=new_format)
    ours = resnet18_encoder("standard")
    put_into(ours, read_weights(path).weights, path)
    theirs.fc = nn.Identity()
    close = {"atol": 2e-2, "rtol": 2e-2} if form == "half" else {"atol": 1e-5, "rtol": 1e-4}
    torch.testing.assert_close(features(ours), features(theirs), **close)


def test_the_slow_copy_is_found_by_its_name(theirs, tmp_path):
    path, ours = tmp_path / "weights.pth", resnet18_encoder("standard")
    torch.save(OfLightly(torchvision.models.resnet18(), theirs).state_dict(), path)
    put_into(ours, read_weights(path).weights, path, "backbone_momentum.")
    theirs.fc = nn.Identity()
    torch.testing.assert_close(features(ours), features(theirs), atol=1e-5, rtol=1e-4)


def test_safetensors_of_timm(tmp_path):
    network = timm.create_model("test_efficientnet").eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    ours = backbone_factory(compose_config("backbone=timm", "backbone.name=test_efficientnet").backbone)()
    put_into(ours, read_weights(tmp_path / "model.safetensors").weights, tmp_path / "model.safetensors")
    network.reset_classifier(0)
    torch.testing.assert_close(features(ours), features(network), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: torchvision.models.resnet34(), "100 of its 100 tensors, and more layers, as layer1.2.conv1.weight"),
        (lambda: timm.create_model("seresnet18"), "more layers, as layer1.0.se.fc1.weight"),
        (lambda: timm.create_model("resnet18d"), r"84 of its 100 tensors, and lacks conv1.weight, .* and 11 more"),
        (
            lambda: torchvision.models.wide_resnet50_2(),
            r"lacks .*layer1.0.conv1.weight \(there 128×64×1×1, here 64×64×3×3\)",
        ),
        (lambda: nn.Linear(2, 2), "0 of its 100 tensors, and lacks"),
    ],
)
def test_weights_of_another_network_are_refused_with_what_does_not_match(other, message, tmp_path):
    torch.manual_seed(0)
    ours, path = resnet18_encoder("standard"), tmp_path / "weights.pth"
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    torch.save(other().state_dict(), path)
    with pytest.raises(InputError, match=message) as refused:
        put_into(ours, read_weights(path).weights, path)
    assert "\n" not in str(refused.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_file_that_would_run_code_is_refused(theirs, tmp_path, capsys):
    torch.save({"state_dict": theirs.state_dict(), "callback": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="refused"):
        read_weights(tmp_path / "weights.pth")
    assert "harm" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.pth", None),
        ("text.pth", b"not a state dict"),
        ("empty.pth", b""),
        ("text.safetensors", b"not a state dict"),
        ("empty.safetensors", b""),
    ],
)
def test_what_holds_no_state_dict_is_refused_by_name(name, content, tmp_path):
    path = Path(tmp_path, name)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=name) as refused:
        read_weights(path)
    assert "\n" not in str(refused.value)


def test_a_file_of_other_things_is_refused(tmp_path):
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        read_weights(tmp_path / "list.pth")
