"""An encoder as timm and torch.export load it by the line that is printed, against the run's own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import simclr
from simclr.models.timm_folder import trunk_in_timm
from simclr.runs.directory import clear
from tests.conftest import TINY_RUN, Run, only_run


def printed_line(done: "subprocess.CompletedProcess[str]") -> str:
    return "\n".join(re.findall(r"^    ([^#\n]+)", done.stdout, re.MULTILINE))


@pytest.fixture
def own_run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(only_run(finished / "outputs"), tmp_path / "run")


@pytest.fixture
def images() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]


@pytest.mark.slow
def test_timm_makes_the_model_and_its_preprocessing_of_the_folder(run: Run, own_run, images):
    import timm

    done = run("simclr.export", f"run={own_run}", "format=timm")
    names: dict = {"timm": timm}
    exec(printed_line(done), names)
    loaded = names["encoder"].eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded), is_training=False)
    encoder, preprocess = simclr.load(own_run)
    with torch.no_grad():
        theirs = loaded(torch.stack([prepare(image) for image in images]))
        ours = encoder(torch.stack([preprocess(image) for image in images]))
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    assert "timm.create_model(" in (own_run / "timm_backbone" / "README.md").read_text()
    clear(own_run)
    assert not (own_run / "timm_backbone").exists()


@pytest.mark.slow
def test_a_program_runs_where_this_project_is_not(run: Run, own_run, images, tmp_path):
    done = run("simclr.export", f"run={own_run}", "format=torch_export")
    encoder, preprocess = simclr.load(own_run)
    inputs = torch.stack([preprocess(image) for image in images])
    torch.save(inputs, tmp_path / "images.pt")
    script = f"import sys, torch\nimages = torch.load('images.pt')\n{printed_line(done)}\n"
    script += "assert not any(name.startswith('simclr') for name in sys.modules)\ntorch.save(features, 'features.pt')"
    subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, check=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "features.pt"), encoder(inputs), rtol=0, atol=1e-5)
    clear(own_run)
    assert not list(own_run.glob("*.pt2"))


@pytest.mark.slow
def test_a_network_of_timm_keeps_its_name_and_arguments(run: Run, images, tmp_path):
    import timm

    small = ("backbone=timm", "backbone.name=vit_tiny_patch16_224", "+backbone.options={patch_size: 8, depth: 2}")
    run("train.py", *TINY_RUN, *small, "epochs=1", "callbacks=none", "data.size=32", "augmentation.size=32")
    run_dir = only_run(tmp_path / "outputs")
    done = run("simclr.export", f"run={run_dir}", "format=timm", "output=mine")
    names: dict = {"timm": timm}
    exec(printed_line(done).replace("local-dir:mine", f"local-dir:{tmp_path / 'mine'}"), names)
    inputs = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(names["encoder"].eval()(inputs), simclr.load(run_dir)[0](inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "stem"), [("resnet18_encoder", "small"), ("EfficientNetEncoder", "standard")])
def test_what_timm_calls_otherwise_is_refused(name, stem):
    with pytest.raises(ValueError, match=rf"weights of {name} with stem={stem}"):
        trunk_in_timm({"_target_": f"simclr.models.backbone.{name}", "stem": stem})
