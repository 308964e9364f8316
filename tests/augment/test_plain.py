"""What a backbone is shown outside training, held against torchvision and Pillow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from simclr.augment import plain as module
from simclr.augment.plain import Plain
from simclr.data.shapes import Shapes
from simclr.evaluation.features import extract_with_cache
from tests.augment.test_engines import MEAN, RECIPE, STD


def images(size: int, count: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(size).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


@pytest.mark.parametrize("plain", [Plain(), Plain(24)])
def test_images_of_the_size_that_was_learned_keep_every_bit(plain):
    stored = images(24)
    assert torch.equal(plain(stored), stored.permute(0, 3, 1, 2).float() / 255)
    assert not plain.scales(24)
    assert plain.words(24) == ""


@pytest.mark.parametrize(("stored", "learned"), [(96, 32), (50, 32), (33, 32), (16, 32), (256, 8)])
def test_others_are_scaled_as_torchvision_and_pillow_do(stored, learned):
    before = images(stored)
    after = Plain(learned)(before)
    assert after.shape == (5, 3, learned, learned)
    exact = before.permute(0, 3, 1, 2).double() / 255
    torch.testing.assert_close(after.double(), tv.resize(exact, [learned, learned], antialias=True), atol=1e-6, rtol=0)
    pillow = [Image.fromarray(image.numpy()).resize((learned, learned), Image.Resampling.BILINEAR) for image in before]
    shown = (255 * after.permute(0, 2, 3, 1)).numpy()
    assert np.abs(shown - np.stack([np.asarray(image) for image in pillow])).max() < 1.5  # it rounds twice


def test_a_recipe_that_normalises_is_followed_and_said():
    """Held against torchvision's chain; the size, and the interpolation, are those of the largest view."""
    large = replace(RECIPE, size=24, interpolation="bicubic", mean=list(MEAN), std=list(STD))
    plain = Plain.of([replace(large, size=8), large])
    before = images(40)
    scaled = tv.resize(before.permute(0, 3, 1, 2) / 255, [24, 24], InterpolationMode.BICUBIC, antialias=True)
    torch.testing.assert_close(plain(before), tv.normalize(scaled.clamp(0, 1), MEAN, STD), atol=1e-5, rtol=0)
    normalised = "; normalised by mean (0.48, 0.448, 0.398) and standard deviation (0.277, 0.269, 0.282)"
    assert plain.words(40) == f"; images of 40 pixels are scaled to 24, as learned{normalised}"
    same = images(24)
    torch.testing.assert_close(plain(same), tv.normalize(same.permute(0, 3, 1, 2) / 255, MEAN, STD))
    assert (plain.words(24), plain.scales(24), plain.changes(24)) == (normalised, False, True)


def test_features_are_kept_apart_by_how_images_are_shown(tmp_path):
    store = Shapes(4, 2, 16, 0).load().train
    shown = [Plain(), Plain(16), Plain(16, mean=MEAN, std=STD), Plain(8)]
    found = [extract_with_cache(nn.Flatten(), store, torch.device("cpu"), tmp_path, "", plain) for plain in shown]
    assert len(list(tmp_path.iterdir())) == 3  # the first two show the same
    for plain, features in zip(shown, found, strict=True):
        assert torch.equal(features, plain(store.gather(slice(None))).flatten(1))


def test_the_parts_that_images_are_scaled_in_change_nothing(monkeypatch):
    before = images(40, count=7)
    whole = Plain(16)(before)
    monkeypatch.setattr(module, "AT_ONCE", 2 * 40 * 40)
    assert torch.equal(Plain(16)(before), whole)
