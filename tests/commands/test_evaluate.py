"""One evaluation from configuration to result file: which file, and what it says."""

import json
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from simclr.commands.judge import judge, show
from simclr.errors import InputError
from simclr.runs.checkpoint import PICTURES, epoch_weights, last_checkpoint, load_checkpoint
from simclr.runs.compose import CONFIGS
from simclr.runs.directory import forget_judgements
from tests.conftest import image_bytes, only_run, scalars, write_folder


@pytest.fixture
def run_dir(finished):
    return only_run(finished / "outputs")


def judged(*overrides: object):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("linear_eval", list(map(str, overrides)), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return judge(config)


@pytest.mark.parametrize(
    ("overrides", "file", "keys"),
    [
        (["protocol=knn"], "knn_eval", {"top1", "top1_low", "top1_high", "balanced_top1", "k", "temperature"}),
        (["layer=head"], "linear_eval_head", {"top1", "balanced_top1", "top5", "l2"}),
        (["protocol=knn", "untrained=true"], "knn_eval_untrained", {"top1"}),
        (
            ["protocol=finetune", "labels=0.5", "protocol.epochs=1", "protocol.lr=[0.01]"],
            "finetune_eval_labels-0.5",
            {"top1", "balanced_top1", "labelled_images", "lr"},
        ),
        (
            ["protocol=transfer", "data=shapes", "data.seed=5", "data.size=16", "data.train_count=40"],
            "transfer_eval_shapes",
            {"top1", "knn_top1"},
        ),
    ],
)
def test_every_question_has_a_file_of_its_own(run_dir, overrides, file, keys):
    before = (run_dir / "linear_eval.json").read_text()
    returned = judged(f"run={run_dir}", *overrides)
    result = json.loads((run_dir / f"{file}.json").read_text())
    assert keys | {"protocol", "layer", "train_images", "val_images", "val_images_in_train", "git_commit"} <= set(
        result
    )
    assert result["top1"] == returned
    assert result["protocol"]
    assert (run_dir / "linear_eval.json").read_text() == before
    if "untrained=true" not in overrides:
        assert scalars(run_dir / "evaluation")[f"{file}/top1"][0] == (8, pytest.approx(returned))


def test_checkpoints_on_the_way_do_not_overwrite_the_last(run_dir, tmp_path, caplog):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(last_checkpoint(run_dir), epoch_weights(tmp_path, 1))
    judged(f"ckpt={epoch_weights(tmp_path, 1)}")
    assert [path.name for path in tmp_path.glob("*.json")] == ["linear_eval_epoch-001.json"]
    assert "have changed" not in caplog.text
    result = json.loads((tmp_path / "linear_eval_epoch-001.json").read_text())
    assert result["checkpoint"].endswith("epoch-001.ckpt")
    assert result["top1"] == json.loads((run_dir / "linear_eval.json").read_text())["top1"]


def test_images_that_changed_since_the_training_are_said(run_dir, tmp_path, caplog):
    torch.save(load_checkpoint(last_checkpoint(run_dir)) | {PICTURES: "those of then"}, tmp_path / "a.ckpt")
    judged(f"ckpt={tmp_path}/a.ckpt", "protocol=knn")
    assert "The training images have changed since this run" in caplog.text


def test_head_and_features_are_two_representations(run_dir):
    judged(f"run={run_dir}", "layer=head")
    head, features = (json.loads((run_dir / f"linear_eval{name}.json").read_text()) for name in ("_head", ""))
    assert head["knn_top1"] != features["knn_top1"] or head["top1"] != features["top1"]
    assert (head["layer"], features["layer"]) == ("head", "features")
    assert "projection head" in head["protocol"]["linear"]
    assert "projection head" not in features["protocol"]["linear"]


def test_a_planted_leak_is_reported(run_dir, tmp_path, caplog):
    random = np.random.default_rng(0)
    images = [image_bytes(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(60)]
    files = {f"train/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images[:40])}
    files |= {f"val/{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(images[40:])}
    files["val/a/stolen.png"] = images[3]
    root = write_folder(tmp_path / "images", files)
    caplog.set_level("INFO")
    judged(f"run={run_dir}", "protocol=transfer", "data=image_folder", f"data.root={root}", "data.size=16")
    result = json.loads((run_dir / "transfer_eval_image_folder-images.json").read_text())
    assert (result["val_images"], result["val_images_in_train"]) == (21, 1)
    said = "LEAK: 1 of the 21 validation images are training images too"
    assert said in caplog.text
    assert all(said in words for words in result["protocol"].values())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["protocol=transfer"], "protocol=transfer needs other images; choose them with data="),
        (["protocol=localize"], "localize evaluation needs training and validation images with boxes"),
        (["protocol=finetune", "layer=head"], "use it with layer=features"),
        (["layer=neck"], "layer=neck is not known"),
    ],
)
def test_questions_that_make_no_sense_are_refused(run_dir, overrides, said):
    with pytest.raises(InputError, match=said):
        judged(f"run={run_dir}", *overrides)


@pytest.mark.slow
def test_training_evaluates_what_it_has_trained_and_nothing_twice(run, tmp_path):
    from tests.conftest import TINY_RUN

    run("train.py", *TINY_RUN)
    (run_dir,) = (tmp_path / "outputs").iterdir()
    assert not list(run_dir.glob("*_eval.json"))
    again = run("train.py", *TINY_RUN, "evaluate=[linear,knn]")
    assert "This run has finished already" in again.stdout
    written = {path.name: path.stat().st_mtime_ns for path in run_dir.glob("*_eval.json")}
    assert set(written) == {"linear_eval.json", "knn_eval.json"}
    run("train.py", *TINY_RUN, "evaluate=[linear,knn]")
    assert {path.name: path.stat().st_mtime_ns for path in run_dir.glob("*_eval.json")} == written
    refused = run("train.py", *TINY_RUN, "evaluate=[guess]", check=False)
    assert refused.returncode == 1
    assert "it lists protocols, of linear, knn, localize" in refused.stderr
    unsuited = run("train.py", *TINY_RUN, "seed=1", "evaluate=[localize]", check=False)
    assert unsuited.returncode == 1
    assert "localize evaluation needs training and validation images with boxes" in unsuited.stderr
    assert not list((tmp_path / "outputs").glob("*seed1*/checkpoints/*"))  # before any training
    run("linear_eval.py", f"run={run_dir}", "limit_images=40")  # by hand, of fewer images
    run("train.py", *TINY_RUN, "evaluate=[linear]")
    assert json.loads((run_dir / "linear_eval.json").read_text())["train_images"] == 64


def test_results_are_forgotten_when_their_weights_are_no_longer_the_last(tmp_path):
    names = ("linear_eval", "knn_eval_head", "linear_eval_untrained", "linear_eval_epoch-003", "metrics")
    for name in names:
        (tmp_path / f"{name}.json").write_text('{"protocol": {}}')
        if name not in ("linear_eval_untrained", "metrics"):
            show(tmp_path, name, {"top1": 20.0}, step=8)
    forget_judgements(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        "linear_eval_untrained",
        "linear_eval_epoch-003",
        "metrics",
    }
    assert set(scalars(tmp_path / "evaluation")) == {"linear_eval_epoch-003/top1"}
