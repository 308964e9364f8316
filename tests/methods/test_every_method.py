"""What every method keeps to, whatever it learns from: a new file in configs/method is tested without a line here."""

import pytest
import torch
from torch import nn

from simclr.data.batch import Views
from simclr.data.columns import Column, captions, labels
from simclr.runs.assemble import Assembly, assemble
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS

METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
IMAGES = 6
# What methods read of three images, the classes and captions of all others.
KNOWN: dict[str, Column] = {
    "labels": labels([0, 1, 2], "abc"),
    "captions": captions([["a red star", "stars, all of them red"], ["a blue ring"], ["some black bars"]]),
}


@pytest.fixture(params=METHODS)
def assembly(request) -> Assembly:
    overrides = [f"method={request.param}", "data=shapes", "data.size=32"]
    assembly = assemble(compose_config(*overrides))
    assembly.method.prepare(KNOWN)
    return assembly


def batch(assembly: Assembly) -> Views:
    """Views of the sizes that its augmentation makes, labels and captions."""
    torch.manual_seed(0)
    images = [torch.rand(IMAGES, 3, recipe.size, recipe.size) for recipe in assembly.augmentation.views]
    return Views(images, {"labels": torch.arange(IMAGES) % 3, "captions": torch.arange(IMAGES) % 4})


def test_it_describes_what_it_computes(assembly):
    scalars = assembly.method.compute(batch(assembly))
    assert scalars.keys() == assembly.method.scalars.keys()
    assert "loss" in scalars
    for name, value in scalars.items():
        assert value.ndim == 0, name
        assert value.isfinite(), name
        assert assembly.method.scalars[name].words
        assert assembly.method.scalars[name].unit in ("", "%")


def test_its_loss_reaches_the_backbone_and_a_step_lowers_it(assembly):
    method, views = assembly.method, batch(assembly)
    before = method.compute(views)["loss"]
    before.backward()
    assert all(parameter.grad is not None for parameter in method.parts()["backbone"].parameters())
    learning = [parameter for group in method.parameter_groups() for parameter in group["params"]]
    length = torch.nn.utils.get_total_norm([parameter.grad for parameter in learning])
    torch.optim.SGD(learning, lr=1e-2 / float(length)).step()
    assert method.compute(views)["loss"] < before


def test_its_parts_are_its_own_modules_under_their_names(assembly):
    parts, state = assembly.method.parts(), assembly.method.state_dict()
    assert {"backbone", "head"} <= parts.keys()
    for name, part in parts.items():
        assert isinstance(part, nn.Module)
        for key, tensor in part.state_dict().items():
            assert state[f"{name}.{key}"].data_ptr() == tensor.data_ptr()  # evaluation finds them in a checkpoint


def test_every_parameter_that_learns_is_in_one_group(assembly):
    grouped = [parameter for group in assembly.method.parameter_groups() for parameter in group["params"]]
    learning = [parameter for parameter in assembly.method.parameters() if parameter.requires_grad]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(learning)


def test_views_that_it_cannot_learn_from_are_refused_in_a_sentence(assembly):
    """Too few views are a ValueError, not a crash in the first step."""
    views, assembly.augmentation.views = assembly.augmentation.views, []
    with pytest.raises(ValueError, match=r"views"):
        assembly.method.check(assembly.augmentation)
    assembly.augmentation.views = views
    assembly.method.check(assembly.augmentation)
