"""Corruptions against their definitions and other libraries; robustness against a planted truth."""

import colorsys

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from simclr.errors import InputError
from simclr.evaluation import corruptions
from simclr.evaluation.corruptions import CORRUPTIONS, corrupted
from simclr.evaluation.robust import Robust
from simclr.system.randomness import generator
from tests.evaluation.test_few_labels import clouds
from tests.evaluation.test_protocols import subject

GRID = [0.1, 1e-3]


def smooth(count: int = 4, size: int = 64) -> torch.Tensor:
    """Photograph-like images: noise, blurred, uint8 [B, H, W, 3]."""
    noise = np.random.default_rng(0).normal(size=(count, size, size, 3))
    images = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    return torch.from_numpy((128 + 45 * images / images.std()).clip(0, 255).astype(np.uint8))


def random() -> torch.Generator:
    return generator("test")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_keeps_the_shape_and_grows_with_its_strength(name):
    images = smooth()
    distances = []
    for strength in range(1, 6):
        changed = corrupted(images, name, strength, random())
        assert changed.shape == images.shape
        assert changed.dtype == torch.uint8
        assert torch.equal(changed, corrupted(images, name, strength, random()))
        distances.append((changed.float() - images.float()).square().mean().sqrt().item())
    assert distances[0] > 0.3
    if name == "pixelate":  # how blocks fall on pixels differs
        assert distances[0] < distances[4]
    elif name == "saturate":  # two strengths take colour away, three add to it
        assert distances[0] < distances[1]
        assert distances[2] < distances[3] < distances[4]
    else:
        assert distances == sorted(distances)


@pytest.mark.parametrize("size", [32, 64])
def test_a_gaussian_blur_is_scipys(size):
    images = torch.rand(2, 3, size, size)
    ours = corruptions.gaussian_blur(images, 1.25, random())
    sigma = 1.25 * size / 64
    theirs = ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=0, atol=2e-3)  # they end the kernel a pixel apart


def test_a_point_out_of_focus_is_a_disk():
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    spot = corruptions.defocus_blur(point, (3 * 64 / 65, 0.1), random())[0, 0]
    assert spot.sum() == pytest.approx(1, abs=1e-5)
    distance = (torch.arange(65)[:, None] - 32.0).hypot(torch.arange(65) - 32.0)
    inside = spot[distance < 2.2]
    assert inside.max() - inside.min() < 1e-6
    assert (spot[distance > 3.8] < 1e-9).all()
    assert inside.mean() == pytest.approx(1 / (np.pi * 9), rel=0.03)


def test_noises_have_the_moments_of_their_distributions():
    gray = torch.full((4, 3, 64, 64), 0.4)
    normal = corruptions.gaussian_noise(gray, 0.08, random())
    assert stats.kstest((normal - gray).flatten().numpy() / 0.08, "norm").pvalue > 1e-3
    photons = corruptions.shot_noise(gray, 50, random()) * 50
    assert photons.mean().item() == pytest.approx(20, rel=0.01)
    assert photons.var().item() == pytest.approx(20, rel=0.03)  # Poisson's
    salted = corruptions.impulse_noise(gray, 0.14, random())
    assert (salted == 0).float().mean().item() == pytest.approx(0.07, abs=0.004)
    assert (salted == 1).float().mean().item() == pytest.approx(0.07, abs=0.004)
    assert ((salted == 0) | (salted == 1) | (salted == 0.4)).all()


def test_value_and_saturation_are_those_of_colorsys():
    images = torch.rand(1, 3, 12, 12, generator=random())
    images[0, :, 0, :4] = torch.tensor([[0.0, 0.3, 1.0, 0.5]])  # grays and black
    for ours, change in (
        (corruptions.brightness(images, 0.3, random()), lambda h, s, v: (h, s, min(1, v + 0.3))),
        (corruptions.saturate(images, (5, 0.1), random()), lambda h, s, v: (h, min(1, 5 * s + 0.1), v)),
        (corruptions.saturate(images, (0.3, 0), random()), lambda h, s, v: (h, 0.3 * s, v)),
    ):
        for pixel, changed in zip(images[0].flatten(1).T.tolist(), ours[0].flatten(1).T.tolist(), strict=True):
            expected = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
            assert changed == pytest.approx(expected, abs=1e-5)


def test_a_zoom_keeps_the_centre_and_what_is_even():
    even = torch.full((1, 3, 33, 33), 0.7)
    torch.testing.assert_close(corruptions.zoom_blur(even, 1.26, random()), even)
    radial = (torch.arange(33)[:, None] - 16.0).hypot(torch.arange(33) - 16.0).expand(1, 3, -1, -1) / 40
    blurred = corruptions.zoom_blur(radial, 1.26, random())
    shrink = np.mean([1, *(1 / zoom for zoom in np.arange(1, 1.26, 0.01))])
    inside = radial[0, 0] > 0.1
    torch.testing.assert_close(blurred[0, 0][inside], (radial * shrink)[0, 0][inside], rtol=0.02, atol=0.002)


def test_the_figure_is_that_of_corrupted_images_judged_by_hand(tmp_path):
    """Of all validation images, in two kinds: the probe by hand, every image corrupted once more."""
    from simclr.evaluation.linear import fit

    train, val = clouds(300, 1), clouds(120, 2)
    judged = subject(tmp_path, train, val)
    names = ["gaussian_noise", "contrast"]
    numbers = Robust(500, [1e-3], names).judge(judged).numbers
    bank, queries = judged.features
    labels, truth = judged.labels()
    probe = fit(bank, labels, 4, 1e-3)
    shares = []
    for name in names:
        for strength in range(1, 6):
            pixels = corrupted(
                torch.from_numpy(val.pixels), name, strength, generator(f"corruption {name}", strength, 0)
            )
            with torch.no_grad():
                features = judged.encoder.eval()(judged.plain(pixels))
            shares.append((probe.scores(features).argmax(dim=1) == truth).float().mean().item())
    assert numbers["images"] == 120
    assert numbers["mean_top1"] == pytest.approx(100 * np.mean(shares), abs=1e-4)
    assert numbers["gaussian_noise_top1"] == pytest.approx(100 * np.mean(shares[:5]), abs=1e-4)
    assert numbers["strength_5_top1"] == pytest.approx(100 * np.mean([shares[4], shares[9]]), abs=1e-4)
    clean = (probe.scores(queries).argmax(dim=1) == truth).float().mean().item()
    assert numbers["clean_top1"] == pytest.approx(100 * clean, abs=1e-4)
    assert numbers["mean_top1_low"] < numbers["mean_top1"] < numbers["mean_top1_high"]


def test_an_encoder_that_looks_at_nothing_that_changes_is_robust(tmp_path):
    """Colours of a whole quarter outlive noise; the contrast that tells classes apart does not outlive its loss."""
    judged = subject(tmp_path, clouds(400, 1), clouds(200, 2))
    numbers = Robust(200, GRID, ["impulse_noise", "contrast"]).judge(judged).numbers
    assert numbers["impulse_noise_top1"] > numbers["clean_top1"] - 10
    assert numbers["contrast_top1"] < numbers["clean_top1"] - 8


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": 0}, "protocol.images=0"),
        ({"corruptions": ["rain"]}, r"protocol.corruptions=\['rain'\] is not usable; list some of gaussian_noise"),
        ({"corruptions": []}, "protocol.corruptions="),
        ({"l2_grid": []}, "protocol.l2_grid="),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Robust(**({"images": 10, "l2_grid": GRID} | settings))
