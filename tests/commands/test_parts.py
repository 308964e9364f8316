"""Judging and exporting one of several backbones that a method keeps, from the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from simclr.models import onnx
from simclr.runs.assemble import reassemble
from simclr.runs.checkpoint import epoch_weights, last_checkpoint, load_checkpoint, previous_checkpoint
from simclr.runs.directory import clear
from tests.conftest import TINY_RUN, Run, command, only_run


@pytest.fixture(scope="module")
def byol(tmp_path_factory, command_server) -> Path:
    """The directory of a finished run of BYOL, whose target has moved a little."""
    folder = tmp_path_factory.mktemp("byol")
    narrow = ("head.hidden_features=32", "method.predictor.hidden_features=32", "method.momentum=0.9")
    done = command_server(command("train.py", *TINY_RUN, "method=byol", *narrow, "callbacks=none"), folder)
    assert done.returncode == 0, done.stderr
    return only_run(folder / "outputs")


def test_the_target_is_judged_by_name_and_the_online_network_by_default(run: Run, byol):
    online = run("linear_eval.py", f"run={byol}").stdout
    target = run("linear_eval.py", f"run={byol}", "part=target_backbone").stdout
    assert "step 8, target_backbone, features:" in target
    assert "target" not in online
    ours, theirs = (
        json.loads((byol / f"{name}.json").read_text()) for name in ("linear_eval", "linear_eval_target_backbone")
    )
    assert (ours["part"], theirs["part"]) == ("backbone", "target_backbone")
    assert ours["log_loss"] != theirs["log_loss"] if "log_loss" in ours else True
    assert len(list((byol / "features").glob("*.safetensors"))) == 4  # of two encoders, train and val


def test_the_targets_head_goes_with_it(run: Run, byol):
    run("linear_eval.py", f"run={byol}", "protocol=knn", "part=target_backbone", "layer=head")
    assert (byol / "knn_eval_target_backbone_head.json").exists()


def test_a_part_that_a_run_lacks_is_refused_with_those_that_it_has(run: Run, finished):
    run_dir = only_run(finished / "outputs")
    for program in ("linear_eval.py", "simclr.export"):
        done = run(program, f"run={run_dir}", "part=target_backbone", check=False)
        assert done.returncode == 1
        assert done.stderr == "error: part=target_backbone is not in this checkpoint; it has backbone\n"


@pytest.mark.parametrize("part", ["backbone", "target_backbone"])
def test_what_is_exported_is_that_part_and_loads_as_the_command_says(run: Run, byol, tmp_path, part):
    done = run("simclr.export", f"run={byol}", f"part={part}", "output=taken home/encoder.safetensors")
    path = tmp_path / "taken home" / "encoder.safetensors"
    state, exported = load_checkpoint(last_checkpoint(byol))["state_dict"], load_file(path)
    stored = {name.removeprefix(f"{part}."): t for name, t in state.items() if name.startswith(f"{part}.")}
    assert exported.keys() == stored.keys()
    assert all(torch.equal(exported[name], stored[name]) for name in stored)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["simclr"])
    assert (about["part"], about["step"], about["image_size"]) == (part, 8, 16)
    assert about["mean"] is about["std"] is None

    import safetensors.torch
    from torchvision.models import resnet18

    names = {"safetensors": safetensors, "network": resnet18()}
    lines = re.findall(r"^    (.+)$", done.stdout, re.MULTILINE)
    exec("\n".join(lines).replace(repr("taken home/encoder.safetensors"), repr(str(path))), names)
    assert sorted(names["missing"]) == ["fc.bias", "fc.weight"]
    assert names["unexpected"] == []


@pytest.mark.slow
def test_files_of_others_are_not_overwritten(run: Run, byol, tmp_path):
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(b"a file of mine")
    done = run("simclr.export", f"run={byol}", "output=mine.safetensors", check=False)
    assert done.returncode == 1
    assert "output=mine.safetensors exists, and was not written by this command" in done.stderr
    assert mine.read_bytes() == b"a file of mine"
    done = run("simclr.export", f"run={byol}", f"output={tmp_path}", check=False)
    assert "is a folder" in done.stderr
    for _ in range(2):  # its own may be
        run("simclr.export", f"run={byol}", "output=again.safetensors")


@pytest.mark.slow
def test_onnx_gives_that_parts_features_and_leaves_files_of_others(run: Run, byol, tmp_path):
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(b"a file of mine")
    asked = ("simclr.export", f"run={byol}", "part=target_backbone", "format=onnx")
    done = run(*asked, "output=mine.onnx", check=False)
    assert done.returncode == 1
    assert "output=mine.onnx exists, and was not written by this command" in done.stderr
    assert mine.read_bytes() == b"a file of mine"

    done = run(*asked, "output=encoder.onnx")
    assert onnx.is_ours(tmp_path / "encoder.onnx")  # and may be written again
    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    names: dict[str, Any] = {"onnxruntime": onnxruntime, "images": images}
    lines = re.findall(r"^    ([^#\n]+)", done.stdout, re.MULTILINE)
    exec("\n".join(lines).replace("'encoder.onnx'", repr(str(tmp_path / "encoder.onnx"))), names)
    target = reassemble(load_checkpoint(last_checkpoint(byol)), ["backbone"], "target_backbone")["backbone"]
    with torch.no_grad():
        expected = target.eval()(torch.from_numpy(images))
    torch.testing.assert_close(torch.from_numpy(names["features"]), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_by_default_it_lies_in_the_run_directory(run: Run, byol, tmp_path):
    run_dir = shutil.copytree(byol, tmp_path / "run")
    before = load_file(run_dir / "backbone.safetensors")
    run("simclr.export", f"run={run_dir}")
    run("simclr.export", f"run={run_dir}", "part=target_backbone")
    after, target = (load_file(run_dir / f"{part}.safetensors") for part in ("backbone", "target_backbone"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not torch.equal(target["conv1.weight"], after["conv1.weight"])


@pytest.mark.slow
def test_weights_on_the_way_do_not_take_the_place_of_the_last(run: Run, byol, tmp_path):
    run_dir = shutil.copytree(byol, tmp_path / "run")
    kept = (run_dir / "backbone.safetensors").read_bytes()
    shutil.copy(previous_checkpoint(run_dir), epoch_weights(run_dir, 1))
    for name in ("epoch-001", "previous"):
        run("simclr.export", f"ckpt={run_dir}/checkpoints/{name}.ckpt")
        earlier = load_file(run_dir / f"backbone_{name}.safetensors")
        state = load_checkpoint(previous_checkpoint(run_dir))["state_dict"]
        assert torch.equal(earlier["conv1.weight"], state["backbone.conv1.weight"])
    assert (run_dir / "backbone.safetensors").read_bytes() == kept
    clear(run_dir)
    assert not list(run_dir.glob("*.safetensors"))
