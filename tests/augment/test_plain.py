"""What a backbone is shown outside training, held against torchvision and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from simclr.augment import plain as module
from simclr.augment.plain import Plain


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


def test_the_parts_that_images_are_scaled_in_change_nothing(monkeypatch):
    before = images(40, count=7)
    whole = Plain(16)(before)
    monkeypatch.setattr(module, "AT_ONCE", 2 * 40 * 40)
    assert torch.equal(Plain(16)(before), whole)
