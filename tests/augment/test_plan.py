"""What is worked out ahead of the engine: it travels as one buffer, and changes no view."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from torch.utils._python_dispatch import TorchDispatchMode

from simclr.augment import batched
from simclr.augment.augmentation import Augmentation
from simclr.augment.plan import Parcel, packed, unpacked
from simclr.augment.recipe import Draws
from simclr.data.batch import Batch
from simclr.data.shapes import Shapes
from simclr.training.datamodule import PretrainingData
from tests.augment.test_engines import RECIPE, draw
from tests.conftest import two_views

ELSEWHERE = torch.device("meta")  # has shapes and no values: what asks it for one, or mixes it with the CPU, fails


class Copies(TorchDispatchMode):
    """Counts what is copied from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu" != result.device.type:
            self.bytes.append(result.nbytes)
        return result


def leaves(nested: Any) -> list[torch.Tensor]:
    return [nested] if isinstance(nested, torch.Tensor) else [leaf for part in nested for leaf in leaves(part)]


def test_a_parcel_arrives_as_it_was_packed():
    content = [
        (torch.tensor([True, False, True]), torch.arange(5), torch.empty(0, dtype=torch.int64)),
        draw(RECIPE, 7),
        (),
        torch.randn(3, 1, 2).transpose(0, 2),
        (batched.plan(draw(RECIPE, 9), RECIPE, 64, 64, ELSEWHERE),),
    ]
    arrived = unpacked(content, packed(content))
    assert [type(part) for part in arrived] == [type(part) for part in content]
    assert type(arrived[-1][0][0]) is type(content[-1][0][0])
    for one, other in zip(leaves(arrived), leaves(content), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("changes", [{}, {"color_first": True, "blur_p": 0.5}, {"mean": (0.5,) * 3, "std": (0.2,) * 3}])
def test_two_views_of_one_recipe_may_be_made_as_one(changes):
    recipe = replace(RECIPE, **changes)
    images = torch.randint(256, (40, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn = [draw(recipe, len(images), seed=seed) for seed in (1, 2)]
    both = Draws(*(torch.cat(fields) for fields in zip(*drawn, strict=True)))
    together = batched.augment(images.repeat(2, 1, 1, 1), batched.plan(both, recipe, 64, 64, ELSEWHERE), recipe)
    apart = torch.cat([batched.augment(images, one, recipe) for one in drawn])
    assert (together - apart).abs().max() <= 1e-6


def batch_of(augmentation: Augmentation, device: torch.device, ahead: bool = True) -> tuple[PretrainingData, Batch]:
    """The first batch of a run on that device, as its loader gives it."""
    plan = batched.plan if ahead else None
    data = PretrainingData(Shapes(64, 10, 32, seed=0), augmentation, batch_size=16, seed=0, plan=plan)
    data.setup()
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=device), global_step=0, max_epochs=1)
    data.trainer = cast(Any, trainer)
    return data, next(iter(data.train_dataloader()))


@pytest.mark.parametrize("views", [2, [{}, {"solarize_p": 1.0}], [{}, {}, {"size": 16}]])
def test_what_the_draws_of_all_views_ask_for_is_one_copy_and_no_wait(views):
    settings = vars(replace(RECIPE, size=32))
    data, batch = batch_of(Augmentation(views, **settings), ELSEWHERE)
    with Copies() as copies:
        there = move_data_to_device(batch, ELSEWHERE)
        made = data.on_after_batch_transfer(there, 0)
    assert len(copies.bytes) == 3  # images, rows, and the one
    assert [images.shape[-1] for images in made.images] == ([32, 32, 16] if len(made.images) == 3 else [32, 32])
    assert all(images.device == ELSEWHERE for images in made.images)


def test_views_planned_ahead_are_those_that_the_engine_makes_of_the_draws():
    augmentation = two_views(replace(RECIPE, size=32))
    views = []
    for ahead in (True, False):
        data, batch = batch_of(augmentation, torch.device("cpu"), ahead)
        assert isinstance(batch.plans, Parcel) is ahead
        views.append(data.on_after_batch_transfer(move_data_to_device(batch, torch.device("cpu")), 0).images)
    assert all(torch.equal(one, other) for one, other in zip(*views, strict=True))
