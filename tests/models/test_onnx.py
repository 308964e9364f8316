"""ONNX files and programs against the networks that they were written from, run by what knows none of our code."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from simclr.augment.plain import Plain
from simclr.errors import InputError
from simclr.models import program
from simclr.models.heads import LinearHead
from simclr.models.image_tower import ImageTower
from simclr.models.onnx import is_ours, write_image_tower


class Features(nn.Module):
    """A small backbone with batch norm, whose statistics are not those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.norm.running_mean = torch.rand(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(images)).relu().mean(dim=(2, 3))


@pytest.mark.slow
def test_a_run_that_normalised_its_images_gets_them_from_0_to_1(tmp_path):
    plain = Plain(12, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.1))
    backbone, head = Features().eval(), LinearHead(8, 5)
    path = tmp_path / "image.onnx"
    write_image_tower(ImageTower(backbone, head, plain), path, {"part": "backbone"})
    assert is_ours(path)
    program.write(ImageTower(backbone, head, plain), tmp_path / "image.pt2", '{"part": "backbone"}')
    assert program.is_ours(tmp_path / "image.pt2")
    assert not program.is_ours(path)
    pixels = torch.randint(0, 256, (7, 12, 12, 3), dtype=torch.uint8)
    session = onnxruntime.InferenceSession(path)
    features, embeddings = session.run(None, {"images": (pixels.permute(0, 3, 1, 2) / 255).numpy()})
    with torch.no_grad():
        expected = backbone(plain(pixels))
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=0, atol=1e-5)
        loaded = torch.export.load(tmp_path / "image.pt2").module()
        torch.testing.assert_close(loaded(pixels.permute(0, 3, 1, 2) / 255)[0], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.from_numpy(embeddings), F.normalize(head(expected), dim=1), rtol=0, atol=1e-5)


def test_a_network_that_does_other_things_with_other_images_is_refused(tmp_path):
    class Odd(Features):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images if images.sum() > 0 else -images)  # one graph cannot do either

    tower = ImageTower(Odd(), None, Plain(12))
    with pytest.raises(InputError, match=r"this network cannot be written as ONNX \(Could not guard on data-dependent"):
        write_image_tower(tower, tmp_path / "odd.onnx", {})
    with pytest.raises(InputError, match=r"this network cannot be written as a program \(Could not guard on data-dep"):
        program.write(tower, tmp_path / "odd.pt2", "{}")
