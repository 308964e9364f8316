"""One evaluation from configuration to result file: which file, and what it says."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from simclr.commands.judge import judge, show
from simclr.data.folder import ImageFolder
from simclr.errors import InputError
from simclr.runs.checkpoint import TRAIN_IMAGES, VAL_IMAGES, epoch_weights, last_checkpoint, load_checkpoint
from simclr.runs.configs import CONFIGS
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
            "transfer_eval_shapes-c2d43627",
            {"top1", "knn_top1"},
        ),
        (["protocol=knn", "limit_images=25"], "knn_eval_limit-25", {"top1"}),
        (["limit_images=40", "layer=head"], "linear_eval_limit-40_head", {"top1"}),
        (
            ["protocol=knn", "data=shapes", "data.seed=5", "data.size=16", "data.train_count=40"],
            "knn_eval_shapes-c2d43627",
            {"top1"},
        ),
    ],
)
def test_every_question_has_a_file_of_its_own(run_dir, overrides, file, keys):
    before = (run_dir / "linear_eval.json").read_text()
    returned = judged(f"run={run_dir}", *overrides)
    result = json.loads((run_dir / f"{file}.json").read_text())
    always = {"protocol", "layer", "train_images", "val_images", "val_images_in_train", "git_commit", "data", "images"}
    assert keys | always <= set(result)
    assert result["images"]["train"] == result["train_images"]
    assert set(result["data"]) == {"choice", "root", "size", "key"}
    assert result["top1"] == returned
    assert result["protocol"]
    assert (run_dir / "linear_eval.json").read_text() == before
    if "untrained=true" not in overrides:
        assert scalars(run_dir / "evaluation")[f"{file}/top1"][0] == (8, pytest.approx(returned))


def test_checkpoints_on_the_way_do_not_overwrite_the_last(run_dir, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(last_checkpoint(run_dir), epoch_weights(tmp_path, 1))
    judged(f"ckpt={epoch_weights(tmp_path, 1)}")
    assert [path.name for path in tmp_path.glob("*.json")] == ["linear_eval_epoch-001.json"]
    result = json.loads((tmp_path / "linear_eval_epoch-001.json").read_text())
    assert result["checkpoint"].endswith("epoch-001.ckpt")
    assert result["top1"] == json.loads((run_dir / "linear_eval.json").read_text())["top1"]


def test_images_of_another_size_are_shown_at_the_one_that_was_learned(run_dir, tmp_path, caplog):
    few = ("protocol=knn", "data=shapes", "data.train_count=40", "data.val_count=20")
    for size, said in ((32, "; images of 32 pixels are scaled to 16, as learned"), (16, "")):
        with caplog.at_level(logging.INFO):
            judged(f"run={run_dir}", *few, f"data.size={size}", f"output={tmp_path / str(size)}")
        (result,) = (tmp_path / str(size)).glob("knn_eval_shapes-*.json")
        assert json.loads(result.read_text())["protocol"]["knn"].endswith(f"over validation images{said}")
    assert caplog.text.count("learned from views of 16 pixels; images of 32 are scaled to that") == 1


def test_the_runs_own_images_by_any_choice_are_the_plain_question(run_dir):
    before = (run_dir / "linear_eval.json").read_text()
    own = ("data=shapes", "data.size=16", "data.train_count=64", "data.val_count=20")
    judged(f"run={run_dir}", "protocol=knn", *own)
    judged(f"run={run_dir}", "protocol=knn")
    assert not list(run_dir.glob("knn_eval_shapes*64*"))
    told = json.loads((run_dir / "knn_eval.json").read_text())["data"]
    assert (told["choice"], told["root"], told["size"]) == ("shapes", None, 16)
    assert told["key"] == {"train": "shapes train 64 16 px seed 0", "val": "shapes val 20 16 px seed 0"}
    assert (run_dir / "linear_eval.json").read_text() == before


def test_run_and_ckpt_each_take_a_directory_or_a_checkpoint(run_dir, tmp_path):
    shutil.copytree(run_dir / "checkpoints", tmp_path / "checkpoints")
    shutil.copy(last_checkpoint(run_dir), epoch_weights(tmp_path, 1))
    for question in (f"ckpt={tmp_path}", f"run={epoch_weights(tmp_path, 1)}", f"run={last_checkpoint(tmp_path)}"):
        judged(question, "protocol=knn")
    assert {path.name for path in tmp_path.glob("*.json")} == {"knn_eval.json", "knn_eval_epoch-001.json"}


def test_bare_checkpoints_in_one_folder_have_results_of_their_own(run_dir, tmp_path):
    for name in ("one", "two"):
        shutil.copy(last_checkpoint(run_dir), tmp_path / f"{name}.ckpt")
        judged(f"ckpt={tmp_path}/{name}.ckpt", "protocol=knn")
        judged(f"ckpt={tmp_path}/{name}.ckpt", "protocol=knn", "untrained=true")
    assert {path.name for path in tmp_path.glob("*.json")} == {
        *("knn_eval_one.json", "knn_eval_one_untrained.json", "knn_eval_two.json", "knn_eval_two_untrained.json")
    }


@pytest.fixture
def on_a_folder(run_dir, tmp_path, monkeypatch):
    """A checkpoint that says it was trained on the images in a folder, by a path from the root or by a relative one."""
    random = np.random.default_rng(0)
    files = {
        f"{split}/{'ab'[i % 2]}/{i}.png": image_bytes(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
        for split, count in (("train", 30), ("val", 10))
        for i in range(count)
    }
    root = write_folder(tmp_path / "images", files)
    _, train, val = ImageFolder(str(root), 16, 0.1).load()
    monkeypatch.chdir(tmp_path)

    def checkpoint(place: object, **entries: object) -> str:
        content = load_checkpoint(last_checkpoint(run_dir)) | {TRAIN_IMAGES: train.key, VAL_IMAGES: val.key} | entries
        data = {"_target_": "simclr.data.folder.ImageFolder", "root": str(place), "size": 16, "val_fraction": 0.1}
        torch.save(content | {"config": content["config"] | {"data": data}}, tmp_path / "a.ckpt")
        return f"ckpt={tmp_path}/a.ckpt"

    return root, checkpoint


def test_images_that_have_moved_are_found_by_data_root_and_never_guessed(on_a_folder):
    root, checkpoint = on_a_folder
    there = checkpoint(root)
    judged(there, "protocol=knn")
    moved = root.rename(root.with_name("moved"))
    with pytest.raises(InputError, match=r"images of .*a\.ckpt are not at .*images any more; say .* data\.root=PATH"):
        judged(there, "protocol=knn")
    judged(there, "protocol=knn", f"data.root={moved}")
    assert [path.name for path in root.parent.glob("*.json")] == ["knn_eval_a.json"]
    result = json.loads((root.parent / "knn_eval_a.json").read_text())
    assert (result["data"]["choice"], result["data"]["root"]) == ("image_folder", str(moved))


def test_a_relative_path_counts_where_its_images_are_the_runs_and_not_otherwise(on_a_folder):
    root, checkpoint = on_a_folder
    judged(checkpoint("images"), "protocol=knn")  # as earlier versions kept it: the same images, by their key
    content = load_checkpoint(root.parent / "a.ckpt")
    del content[TRAIN_IMAGES]
    torch.save(content, root.parent / "a.ckpt")
    with pytest.raises(InputError, match=r"are in images, and not below which folder; say where"):
        judged(f"ckpt={root.parent}/a.ckpt", "protocol=knn")


@pytest.mark.parametrize(("entry", "what"), [(TRAIN_IMAGES, "training"), (VAL_IMAGES, "validation")])
def test_other_images_are_refused_unless_they_are_chosen_and_then_have_a_file_of_their_own(on_a_folder, entry, what):
    root, checkpoint = on_a_folder
    there = checkpoint(root, **{entry: "those of then"})
    for overrides in ([], [f"data.root={root}"]):
        said = rf"the {what} images at data\.root=.*images \(key [0-9a-f]{{16}}\) are not .* \(key those of then\)"
        with pytest.raises(InputError, match=said):
            judged(there, "protocol=knn", *overrides)
    judged(there, "protocol=knn", "data=image_folder", f"data.root={root}", "data.size=16")
    (name,) = (path.name for path in root.parent.glob("*.json"))
    assert re.fullmatch(r"knn_eval_image_folder-images-[0-9a-f]{8}_a\.json", name)


def test_images_that_are_gone_are_not_downloaded_again(on_a_folder):
    root, checkpoint = on_a_folder
    there = checkpoint(root)
    content = load_checkpoint(root.parent / "a.ckpt")
    (root.parent / "data").mkdir()  # as the default downloads into
    content["config"]["data"] = {
        "_target_": "simclr.data.tiny_imagenet.TinyImageNet",
        "root": str(root.parent / "data"),
        "size": 64,
    }
    torch.save(content, root.parent / "a.ckpt")
    with pytest.raises(InputError, match=r"there is no .*data/tiny-imagenet-200\.zip any more; say where it is"):
        judged(there, "protocol=knn")
    assert not list((root.parent / "data").iterdir())


def test_transfer_sets_in_folders_of_one_name_have_results_of_their_own(run_dir, on_a_folder):
    root, _ = on_a_folder
    other = root.parent / "other" / "images"
    shutil.copytree(root, other, copy_function=shutil.copyfile)
    shutil.rmtree(other / "train" / "a")
    shutil.copytree(other / "train" / "b", other / "train" / "a")
    before = set(run_dir.glob("transfer*"))
    for place in (root, other):
        judged(f"run={run_dir}", "protocol=transfer", "data=image_folder", f"data.root={place}", "data.size=16")
    written = set(run_dir.glob("transfer_eval_image_folder-images-*.json")) - before
    assert {json.loads(path.read_text())["data"]["root"] for path in written} == {str(root), str(other)}


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
    _, train, _ = ImageFolder(str(root), 16, 0.1).load()
    results = [json.loads(path.read_text()) for path in run_dir.glob("transfer_eval_image_folder-images-*.json")]
    (result,) = (result for result in results if result["data"]["key"]["train"] == train.key)
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
    assert (run_dir / "linear_eval_limit-40.json").exists()


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
