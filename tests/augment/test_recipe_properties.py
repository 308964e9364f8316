"""Any recipe that is accepted draws within its ranges and gives sound views in both engines; any other is named."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr.augment import batched, reference
from simclr.augment.recipe import CHANNELS, INTERPOLATIONS, MAX_SIZE, MAX_STRENGTH, MIN_SIZE, PAIRS, Draws, Recipe
from tests.augment.test_engines import MEAN, ONE_LEVEL, RECIPE, STD

COUNT = 3  # images in a batch
few = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.sampled_from([low, high]) | st.floats(low, high)


def pair(low: float, high: float) -> st.SearchStrategy[list[float]]:
    """[low, high] with both ends anywhere, on a scale of orders of magnitude."""
    ends = st.floats(math.log(low), math.log(high)).map(lambda x: min(max(math.exp(x), low), high))
    return st.tuples(ends, ends).map(sorted) | st.sampled_from([[low, low], [high, high], [low, high]])


@st.composite
def recipes(draw, strength: float = MAX_STRENGTH, hue: float = 0.5) -> Recipe:
    size = draw(st.integers(MIN_SIZE, 40))
    return Recipe(
        size=size,
        **{name: draw(pair(low, high)) for name, (low, high) in PAIRS.items()},
        **{name: draw(number(0, 1)) for name in ("flip_p", "solarize_p", "jitter_p", "grayscale_p", "blur_p")},
        **{name: draw(number(0, strength)) for name in ("brightness", "contrast", "saturation")},
        solarize_threshold=draw(st.integers(0, 255)),
        hue=draw(number(0, hue)),
        blur_kernel=draw(st.integers(0, min(size - 1, 7)).map(lambda half: 2 * half + 1)),
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        color_first=draw(st.booleans()),
        mean=None,
        std=None,
    )


@st.composite
def images(draw) -> torch.Tensor:
    """uint8 [COUNT, H, W, 3] of any odd shape: large patches with a little noise, one of them a single colour."""
    height, width = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    random = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    coarse = torch.rand(COUNT, 3, 4, 4, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noisy = (smooth + 0.05 * torch.randn(smooth.shape, generator=random)).clamp(0, 1)
    noisy[0] = draw(st.sampled_from([0, 0.5, 1]))
    return (noisy * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def draws_of(recipe: Recipe, images: torch.Tensor) -> Draws:
    count, height, width, _ = images.shape
    return recipe.draw(count, height, width, torch.Generator().manual_seed(0))


def within(values: torch.Tensor, low: float, high: float) -> bool:
    """In float32, to one rounding."""
    slack = 1e-6 * max(1, abs(low), abs(high))
    return bool((values >= low - slack).all() and (values <= high + slack).all())


@few
@given(recipes(), images())
def test_draws_lie_in_their_ranges(recipe, images):
    draws = draws_of(recipe, images)
    assert all(len(field) == len(images) for field in draws)
    _, height, width, _ = images.shape
    assert (draws.top >= 0).all()
    assert (draws.left >= 0).all()
    assert (draws.height >= 1).all()
    assert (draws.width >= 1).all()
    assert (draws.top + draws.height <= height).all()
    assert (draws.left + draws.width <= width).all()
    for name in ("brightness", "contrast", "saturation"):
        strength = getattr(recipe, name)
        assert within(getattr(draws, name), max(0, 1 - strength), 1 + strength)
    assert within(draws.hue, -recipe.hue, recipe.hue)
    assert within(draws.sigma / recipe.blur_sigma[1], recipe.blur_sigma[0] / recipe.blur_sigma[1], 1)
    assert (draws.jitter_order.sort(dim=1).values == torch.arange(4)).all()
    for name in ("flip", "solarize", "jitter", "grayscale"):
        if getattr(recipe, f"{name}_p") in (0, 1):
            assert (getattr(draws, name) == bool(getattr(recipe, f"{name}_p"))).all()


@few
@given(recipes(), images())
@example(replace(RECIPE, crop_ratio=[0.01, 0.02]), torch.zeros(COUNT, 8, 8, 3, dtype=torch.uint8))  # under one pixel
def test_views_are_sound_in_both_engines(recipe, images):
    draws = draws_of(recipe, images)
    for engine in (batched, reference):
        view = engine.augment(images, draws, recipe)
        assert view.dtype == torch.float32
        assert view.shape == (COUNT, 3, recipe.size, recipe.size)
        assert view.isfinite().all()
        assert 0 <= view.min() <= view.max() <= 1


@few
@given(recipes(strength=0.8, hue=0.2), images())
def test_engines_agree(recipe, images):
    """At the tolerances of test_engines.py: a level for blur, 1e-4 for crop and colours, a few levels for the chain."""
    draws = draws_of(recipe, images)
    how = InterpolationMode(recipe.interpolation)
    crops = batched.resized_crop(images, draws, recipe.size, recipe.interpolation)
    jittered = batched.color_jitter(crops, draws)
    levels = (jittered * 255).round().to(torch.uint8)
    blurred = batched.gaussian_blur(levels.float() / 255, draws.sigma, recipe.blur_kernel)
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    for i, image in enumerate(images):
        box = [int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)]
        theirs = tv.resized_crop(
            image.permute(2, 0, 1) / 255, *box, [recipe.size] * 2, interpolation=how, antialias=True
        )
        theirs = tv.horizontal_flip(theirs) if draws.flip[i] else theirs
        assert (crops[i] - theirs.clamp(0, 1)).abs().max() <= 1e-4
        theirs = crops[i]
        for which in draws.jitter_order[i].tolist() if draws.jitter[i] else ():
            parameter = (draws.brightness, draws.contrast, draws.saturation, draws.hue)[which][i]
            theirs = adjust[which](theirs, float(parameter))
        assert (jittered[i] - theirs).abs().max() <= 1e-4
        theirs = tv.gaussian_blur(levels[i], [recipe.blur_kernel] * 2, [float(draws.sigma[i])] * 2)
        assert (blurred[i] - theirs / 255).abs().max() <= ONE_LEVEL
    plain = replace(recipe, solarize_p=0)  # a value rounded across the threshold would be inverted by one engine alone
    draws = draws_of(plain, images)
    difference = batched.augment(images, draws, plain) - reference.augment(images, draws, plain)
    # The reference rounds to a level after each of up to four colour operations, of which a later one enlarges what an
    # earlier one has rounded; over many pixels that averages out, in a crop of a few it does not. What bicubic makes
    # overshoot, at single pixels, it cuts after each of two passes.
    assert difference.abs().mean() * 255 < (2 if (draws.height * draws.width).min() > 64 else 4)
    assert recipe.interpolation == "bicubic" or difference.abs().max() * 255 < 16


CHOICES = {"interpolation": INTERPOLATIONS, "color_first": (True, False)}
NUMBERS = sorted({field.name for field in fields(Recipe)} - PAIRS.keys() - CHANNELS.keys() - CHOICES.keys())
NORMALISED = replace(RECIPE, mean=MEAN, std=STD)
anything = (
    st.none()
    | st.booleans()
    | st.text(max_size=3)
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 10**9, math.inf, -math.inf, math.nan])
    | st.floats()
    | st.lists(st.floats() | st.text(max_size=1) | st.booleans() | st.none(), max_size=3)
    | st.dictionaries(st.text(max_size=1), st.floats(), max_size=1)
)


def usable(name: str, value: object) -> bool:
    """The rules of configs/augmentation/baseline.yaml, written anew, for a recipe that is NORMALISED in all else."""

    def lies(number: object, low: float, high: float) -> bool:
        return type(number) in (int, float) and low <= number <= high  # type: ignore[operator]

    if name in PAIRS | CHANNELS:
        bounds, count = (PAIRS | CHANNELS)[name], 2 if name in PAIRS else 3
        if not (isinstance(value, list) and len(value) == count):
            return False
        return all(lies(number, *bounds) for number in value) and (name in CHANNELS or value[0] <= value[1])
    if name in CHOICES:
        return any(type(value) is type(choice) and value == choice for choice in CHOICES[name])
    if name in ("size", "blur_kernel", "solarize_threshold"):
        low, high = {"size": (MIN_SIZE, MAX_SIZE), "blur_kernel": (1, 127), "solarize_threshold": (0, 255)}[name]
        return type(value) is int and low <= value <= high and (name != "blur_kernel" or value % 2 == 1)
    return lies(value, 0, 1 if name.endswith("_p") else 0.5 if name == "hue" else MAX_STRENGTH)


@settings(few, max_examples=300)
@given(st.sampled_from([*NUMBERS, *PAIRS, *CHANNELS, *CHOICES]), anything)
@example("brightness", math.inf)
@example("flip_p", True)
@example("crop_ratio", [])
@example("crop_ratio", [0.75, math.nan])
@example("blur_sigma", [2.0, 0.1])
@example("blur_kernel", 7.0)
@example("size", MAX_SIZE + 1)
@example("mean", [0, 0.5, 1])
@example("std", [0.0, 0.5, 1.0])
@example("std", None)
@example("interpolation", "bicubic")
def test_what_is_accepted_is_usable_and_all_else_is_named(name, value):
    if usable(name, value):
        assert getattr(replace(NORMALISED, **{name: value}), name) == value
    else:
        with pytest.raises(ValueError, match=rf"^{name}=[\s\S]* is not usable: "):
            replace(NORMALISED, **{name: value})


@settings(few, max_examples=100)
@given(st.data())
def test_values_just_outside_are_refused_and_the_ends_are_not(data):
    name = data.draw(st.sampled_from([name for name in NUMBERS if name not in ("size", "blur_kernel")]))
    high = {"solarize_threshold": 255, "hue": 0.5}.get(name, 1 if name.endswith("_p") else MAX_STRENGTH)
    for end in (0, high):
        replace(RECIPE, **{name: end})
    step = 1 if name == "solarize_threshold" else data.draw(st.sampled_from([1e-12, 0.1, 1e9]))
    for outside in (-step, high + step):
        with pytest.raises(ValueError, match=rf"^{name}="):
            replace(RECIPE, **{name: outside})
