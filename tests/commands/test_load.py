"""simclr.load: the encoder that torchvision makes of the run's own file, shown images as the run's were."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import resnet18

import simclr
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import only_run


@pytest.fixture(scope="module")
def run_dir(finished):
    return only_run(finished / "outputs")


def test_its_features_are_those_of_torchvisions_network_with_the_runs_weights(run_dir, tmp_path):
    encoder, preprocess = simclr.load(run_dir)
    assert not encoder.training
    theirs = resnet18()
    theirs.load_state_dict(load_file(run_dir / "backbone.safetensors"), strict=False)
    theirs.fc = torch.nn.Identity()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)  # as large as the run's own
    Image.fromarray(pixels).save(tmp_path / "own.png")
    image = preprocess(tmp_path / "own.png")
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    with torch.no_grad():
        features = encoder(image[None])
        assert features.shape == (1, encoder.num_features)
        torch.testing.assert_close(features, theirs.eval()(image[None]), atol=1e-5, rtol=1e-4)
    encoder(image[None]).sum().backward()
    assert encoder.conv1.weight.grad.abs().sum() > 0


def test_images_are_turned_upright_cut_and_normalised_as_the_runs_were(run_dir, tmp_path):
    checkpoint = load_checkpoint(last_checkpoint(run_dir))
    checkpoint["config"]["augmentation"] |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "size": 24}
    torch.save(checkpoint, tmp_path / "other.ckpt")
    _, preprocess = simclr.load(str(tmp_path / "other.ckpt"))
    wide = np.zeros((40, 90, 3), np.uint8)
    wide[:, 20:70] = [255, 102, 51]  # the centre, which is kept, and what Pillow looks at around it
    tall = Image.fromarray(wide.transpose(1, 0, 2))
    exif = tall.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    tall.save(tmp_path / "turned.png", exif=exif)
    expected = torch.tensor([(1 - 0.5) / 0.2, (0.4 - 0.4) / 0.2, (0.2 - 0.3) / 0.1])[:, None, None].expand(3, 24, 24)
    for image in (Image.fromarray(wide), Image.open(tmp_path / "turned.png"), str(tmp_path / "turned.png")):
        torch.testing.assert_close(preprocess(image), expected, atol=0.05, rtol=0)
    gray = preprocess(Image.new("L", (30, 50), 128))
    assert gray.shape == (3, 24, 24)


def test_what_is_not_there_is_said_in_one_line(run_dir, tmp_path):
    for run, part, message in (
        (tmp_path / "nowhere", "backbone", r"there is no checkpoint"),
        (run_dir, "target_backbone", r"part=target_backbone is not in this checkpoint; it has backbone"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            simclr.load(run, part)
        assert "\n" not in str(caught.value)


def test_importing_the_package_does_not_wait_for_torch():
    program = "import simclr, sys; assert callable(simclr.load); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_run_may_have_moved(run_dir, tmp_path):
    moved = shutil.copytree(run_dir, tmp_path / "elsewhere")
    (one, _), (other, _) = simclr.load(run_dir), simclr.load(moved)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
