"""Each batched operation against torchvision at the same parameters, and the draws against their distributions."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr.augment import batched, reference
from simclr.augment.recipe import Draws, Recipe

RECIPE = Recipe(
    size=64,
    crop_scale=(0.08, 1.0),
    crop_ratio=(3 / 4, 4 / 3),
    flip_p=0.5,
    solarize_p=0.2,
    solarize_threshold=128,
    jitter_p=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grayscale_p=0.2,
    blur_p=1.0,
    blur_kernel=7,
    blur_sigma=(0.1, 2.0),
    interpolation="bilinear",
    color_first=False,
    mean=None,
    std=None,
)
MEAN, STD = (0.480, 0.448, 0.398), (0.277, 0.269, 0.282)
NO_CHANGE = replace(RECIPE, flip_p=0, solarize_p=0, jitter_p=0, grayscale_p=0, blur_sigma=(1e-3, 1e-3))
ONE_LEVEL = 1 / 255 + 1e-6


def draw(recipe: Recipe, count: int, height: int = 64, width: int = 64, seed: int = 0) -> Draws:
    return recipe.draw(count, height, width, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """uint8 [24, 64, 64, 3]: noise on top of large patches, plus pure gray, black and white images."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 6, 6, generator=random)
    smooth = torch.nn.functional.interpolate(coarse, size=64, mode="bicubic").clamp(0, 1)
    noisy = (smooth + 0.1 * torch.randn(smooth.shape, generator=random)).clamp(0, 1)
    noisy[0], noisy[1], noisy[2] = 0, 1, noisy[2].mean(dim=0)
    return (noisy * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def as_float(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [64, 32, 96])
def test_crop_resize_and_flip(images, size, interpolation):
    """On bytes torchvision cuts what bicubic makes overshoot twice, between its two passes and after: see below."""
    draws = draw(replace(RECIPE, flip_p=0.5), len(images))
    ours, how = batched.resized_crop(images, draws, size, interpolation), InterpolationMode(interpolation)
    of_floats = batched.resized_crop(as_float(images).permute(0, 2, 3, 1), draws, size, interpolation)
    assert (ours - of_floats).abs().max() <= 1e-6
    for i, image in enumerate(as_float(images)):
        box = [int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)]
        theirs = tv.resized_crop(image, *box, size=[size, size], interpolation=how, antialias=True)
        theirs = tv.horizontal_flip(theirs) if draws.flip[i] else theirs
        assert (ours[i] - theirs.clamp(0, 1)).abs().max() <= 1e-5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("box", "size"), [((3, 5, 60, 40), 24), ((3, 5, 60, 40), 64), ((9, 0, 20, 31), 57)])
def test_a_crop_is_pillows(images, interpolation, box, size):
    """Of images without black and white, where bicubic would overshoot."""
    calm = images // 2 + 64
    draws = draw(replace(RECIPE, flip_p=0), len(images))
    names = ("top", "left", "height", "width")
    draws = draws._replace(**{name: torch.full_like(draws.top, at) for name, at in zip(names, box, strict=True)})
    ours = batched.resized_crop(calm, draws, size, interpolation)
    top, left, height, width = box
    for i, image in enumerate(calm):
        crop = Image.fromarray(image.numpy()).crop((left, top, left + width, top + height))
        theirs = np.array(crop.resize((size, size), Image.Resampling[interpolation.upper()]))
        assert (ours[i] - torch.from_numpy(theirs).permute(2, 0, 1) / 255).abs().max() <= 1.25 * ONE_LEVEL


def test_normalize(images):
    assert torch.equal(batched.normalize(as_float(images), None, None), as_float(images))
    ours, theirs = batched.normalize(as_float(images), MEAN, STD), tv.normalize(as_float(images), MEAN, STD)
    torch.testing.assert_close(ours, theirs)


def test_crop_of_an_image_that_is_not_square():
    images = torch.randint(0, 256, (8, 40, 72, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    draws = draw(RECIPE, 8, 40, 72)
    ours = batched.resized_crop(images, draws, 64)
    for i, image in enumerate(images):
        box = [int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)]
        theirs = tv.resized_crop(image.permute(2, 0, 1), *box, size=[64, 64], antialias=True)
        theirs = tv.horizontal_flip(theirs) if draws.flip[i] else theirs
        assert (ours[i] - theirs / 255).abs().max() <= ONE_LEVEL


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"),
    [
        (batched.adjust_brightness, tv.adjust_brightness, 0.2, 1.8),
        (batched.adjust_contrast, tv.adjust_contrast, 0.2, 1.8),
        (batched.adjust_saturation, tv.adjust_saturation, 0.2, 1.8),
        (batched.adjust_hue, tv.adjust_hue, -0.5, 0.5),
    ],
)
def test_colour_adjustments(images, ours, theirs, low, high):
    """On floats: on bytes torchvision truncates the gray, then the blend, and is itself two levels off."""
    factors = torch.linspace(low, high, len(images))
    floats = as_float(images)
    result = ours(floats, factors)
    for i, factor in enumerate(factors.tolist()):
        assert (result[i] - theirs(floats[i], factor)).abs().max() <= 1e-4


@pytest.mark.parametrize("threshold", [0, 128, 255])
def test_solarize(images, threshold):
    theirs = tv.solarize(images, threshold)
    assert (batched.solarize(as_float(images), threshold) - as_float(theirs)).abs().max() <= 1e-6


def test_grayscale(images):
    theirs = tv.rgb_to_grayscale(images.permute(0, 3, 1, 2), num_output_channels=3) / 255
    assert (batched.grayscale(as_float(images)) - theirs).abs().max() <= ONE_LEVEL


@pytest.mark.parametrize("kernel", [3, 7])
def test_blur(images, kernel):
    sigmas = torch.linspace(0.1, 2.0, len(images))
    ours = batched.gaussian_blur(as_float(images), sigmas, kernel)
    for i, sigma in enumerate(sigmas.tolist()):
        theirs = tv.gaussian_blur(images[i].permute(2, 0, 1), [kernel, kernel], [sigma, sigma]) / 255
        assert (ours[i] - theirs).abs().max() <= ONE_LEVEL


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_jitter_follows_each_images_own_order(images, order):
    draws = draw(replace(RECIPE, jitter_p=1), len(images))
    own_order = torch.tensor(order).expand(len(images), 4).clone()
    own_order[::2] = torch.tensor([1, 3, 0, 2])
    draws = draws._replace(jitter_order=own_order)
    floats = as_float(images)
    ours = batched.color_jitter(floats, draws)
    operations = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
    parameters = (draws.brightness, draws.contrast, draws.saturation, draws.hue)
    for i in range(len(images)):
        theirs = floats[i]
        for which in own_order[i].tolist():
            theirs = operations[which](theirs, float(parameters[which][i]))
        assert (ours[i] - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize(
    "changed",
    [{}, {"blur_p": 0.5}, {"blur_p": 0.0}, {"interpolation": "bicubic"}, {"color_first": True}, {"size": 40}],
    ids=str,
)
@pytest.mark.parametrize("normalised", [{}, {"mean": MEAN, "std": STD}], ids=["", "normalised"])
def test_engines_agree_on_the_whole_recipe(images, changed, normalised):
    """The reference rounds to bytes after each of up to eight operations, so whole chains differ by a few levels."""
    # Solarised, a value rounded across the threshold would be inverted by one engine alone.
    recipe = replace(RECIPE, **{"solarize_p": 0} | changed | normalised)
    draws = draw(recipe, len(images))
    ours, theirs = batched.augment(images, draws, recipe), reference.augment(images, draws, recipe)
    levels = 255 * torch.tensor(recipe.std or (1, 1, 1)).view(3, 1, 1)
    difference = (ours - theirs).abs() * levels
    assert difference.mean() < 2
    assert difference.max() < 16


def test_colour_before_the_crop_sees_the_whole_image(images):
    """The mean that contrast blends with is the image's, not the crop's: a crop of the same draws is another."""
    recipe = replace(RECIPE, jitter_p=1, brightness=0, contrast=0.8, saturation=0, hue=0, grayscale_p=0, solarize_p=0)
    recipe = replace(recipe, blur_p=0, flip_p=0, color_first=True)
    draws = draw(recipe, len(images))
    ours = batched.augment(images, draws, recipe)
    for i, image in enumerate(as_float(images)):
        box = [int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)]
        whole = tv.adjust_contrast(image, float(draws.contrast[i]))
        assert (ours[i] - tv.resized_crop(whole, *box, size=[64, 64], antialias=True)).abs().max() <= 1e-4
    assert (ours - batched.augment(images, draws, replace(recipe, color_first=False))).abs().max() > 0.02


def test_nothing_drawn_means_nothing_changed(images):
    draws = draw(NO_CHANGE, len(images))
    zero = torch.zeros_like(draws.top)
    draws = draws._replace(top=zero, left=zero, height=zero + 64, width=zero + 64)
    assert (batched.augment(images, draws, NO_CHANGE) - as_float(images)).abs().max() <= 1e-5


def test_input_is_left_alone(images):
    before = images.clone()
    batched.augment(images, draw(RECIPE, len(images)), RECIPE)
    assert torch.equal(images, before)


def test_each_image_and_view_has_its_own_draw():
    draws = draw(RECIPE, 64)
    for name in ("top", "brightness", "hue", "sigma"):
        assert len(getattr(draws, name).unique()) > 10
    assert not torch.equal(draws.hue, draw(RECIPE, 64, seed=1).hue)


COUNT = 20_000
STANDARD_ERRORS = 4.5  # a false alarm in about 1 of 150,000 comparisons


@pytest.mark.parametrize("name", ["flip", "solarize", "jitter", "grayscale", "blur"])
def test_probabilities(name):
    recipe = replace(RECIPE, blur_p=0.3)
    probability = getattr(recipe, f"{name}_p")
    share = getattr(draw(recipe, COUNT), name).float().mean().item()
    error = math.sqrt(probability * (1 - probability) / COUNT)
    assert abs(share - probability) < STANDARD_ERRORS * error


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("brightness", 0.2, 1.8), ("contrast", 0.2, 1.8), ("saturation", 0.2, 1.8), ("hue", -0.2, 0.2), ("sigma", 0.1, 2)],
)
def test_parameters_are_uniform(name, low, high):
    values = ((getattr(draw(RECIPE, COUNT), name) - low) / (high - low)).sort().values
    assert values[0] >= 0
    assert values[-1] <= 1
    # Kolmogorov-Smirnov: the distance of the empirical distribution from the uniform one.
    distance = (values - (torch.arange(COUNT) + 0.5) / COUNT).abs().max().item()
    assert distance < 2.3 / math.sqrt(COUNT)  # p = 5e-5


def test_every_order_of_the_jitter_is_equally_likely():
    orders, counts = draw(RECIPE, COUNT).jitter_order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    expected = COUNT / 24
    assert ((counts - expected).abs() < STANDARD_ERRORS * math.sqrt(expected)).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 100)])
def test_crop_boxes_are_distributed_as_torchvisions(height, width):
    draws = draw(RECIPE, COUNT, height, width)
    assert (draws.top >= 0).all()
    assert (draws.left >= 0).all()
    assert (draws.top + draws.height <= height).all()
    assert (draws.left + draws.width <= width).all()

    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(COUNT)])
    for ours, column in zip((draws.top, draws.left, draws.height, draws.width), theirs.T, strict=True):
        # Two-sample Kolmogorov-Smirnov over the possible values.
        values = torch.arange(max(height, width) + 1)
        gap = [((ours <= v).float().mean() - (column <= v).float().mean()).abs().item() for v in values]
        assert max(gap) < 2.3 * math.sqrt(2 / COUNT)


def test_crop_falls_back_to_the_centre_where_nothing_fits():
    draws = draw(replace(RECIPE, crop_scale=(1, 1)), 4, 10, 100)
    expected = RandomResizedCrop.get_params(torch.empty(3, 10, 100), [1.0, 1.0], [3 / 4, 4 / 3])
    for i in range(4):
        assert tuple(int(field[i]) for field in (draws.top, draws.left, draws.height, draws.width)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip_p", 1.5),
        ("hue", 0.6),
        ("brightness", -0.1),
        ("brightness", float("nan")),
        ("crop_scale", [0.5, 0.1]),
        ("crop_scale", [0.5, 2]),
        ("blur_kernel", 4),
        ("blur_kernel", 131),
        ("blur_sigma", [0, 1]),
        ("size", 0),
        ("hue", "much"),
        ("crop_scale", 0.5),
        ("interpolation", "nearest"),
        ("interpolation", ["bicubic"]),
        ("color_first", 1),
        ("mean", [0.5, 0.5]),
        ("mean", [123.7, 116.3, 103.5]),
        ("mean", 0.5),
        ("std", [0.2, 0.2, 0]),
    ],
)
def test_a_parameter_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}="):
        replace(RECIPE, **{name: value})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_fused_operations_agree_with_the_eager_ones(images):
    draws = draw(RECIPE, len(images))
    difference = batched.augment(images, draws, RECIPE, fused=True) - batched.augment(images, draws, RECIPE)
    assert difference.abs().max() <= 1e-5


@pytest.mark.parametrize("changed", [{}, {"size": 32, "color_first": True, "mean": MEAN, "std": STD}])
def test_a_batch_is_augmented_in_parts_without_a_seam(images, changed):
    """100 images of 64×64 are two parts on a CPU; each image comes out as it does on its own."""
    recipe, many = replace(RECIPE, **changed), images.repeat(5, 1, 1, 1)[:100]
    draws = draw(recipe, len(many))
    together = batched.augment(many, draws, recipe)
    for i in (0, 63, 64, 99):
        alone = batched.augment(many[i : i + 1], Draws(*(field[i : i + 1] for field in draws)), recipe)
        assert (together[i] - alone[0]).abs().max() <= 1e-5
