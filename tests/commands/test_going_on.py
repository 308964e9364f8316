"""What a run goes on from, and what then holds: settings that were asked for, images that it was begun on."""

import json
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from simclr.commands.pretrain import pretrain
from simclr.errors import InputError
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.configs import CONFIGS
from simclr.runs.directory import claimed
from simclr.runs.identity import with_absolute_paths
from simclr.system.signals import Stop
from tests.conftest import TINY_RUN, image_bytes, scalars, weights, write_folder

QUIET = ("callbacks.online_knn=null", "callbacks.label_free=null", "callbacks.progress=null", "trainer.accelerator=cpu")


def trained(*overrides: str) -> Path:
    """The directory of a run after train.py OVERRIDES, here and in this process."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*QUIET, *overrides], return_hydra_config=True)
    run_dir = Path(config.hydra.run.dir).absolute()
    with open_dict(config):
        config.hydra.runtime.output_dir = str(run_dir)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    with_absolute_paths(config)
    with claimed(run_dir, config):
        pretrain(config, Stop(75))
    return run_dir


@pytest.fixture(scope="module")
def eight_steps(tmp_path_factory) -> Path:
    """A finished run of two epochs of four steps."""
    return trained(*TINY_RUN, f"output_root={tmp_path_factory.mktemp('eight')}")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", HydraConfig.instance().cfg)  # as it was, afterwards


def test_what_is_asked_for_holds_from_there_on_and_is_recorded(eight_steps, caplog):
    caplog.set_level("INFO")
    asked = ("epochs=3", "optimizer.lr=1e-2", "optimizer.weight_decay=0.1", "temperature=0.5")
    run_dir = trained(*TINY_RUN, *asked, f"resume={eight_steps}", "trainer.log_every_n_steps=1")
    checkpoint = load_checkpoint(last_checkpoint(run_dir))
    (group,) = checkpoint["optimizer_states"][0]["param_groups"]
    assert (group["initial_lr"], group["weight_decay"]) == (0.01, 0.1)
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [0.01]
    rates = dict(scalars(run_dir)["train/lr"])
    for step in range(8, 12):  # SGDR, eq. 5, of the run that was asked for, at once
        assert rates[step] == pytest.approx(0.005 * (1 + math.cos(math.pi * step / 12)), rel=1e-6)
    assert OmegaConf.load(run_dir / "config.yaml").optimizer.lr == 0.01
    (history,) = json.loads((run_dir / "metrics.json").read_text("utf-8"))["resumed_from"]
    assert (history["checkpoint"], history["step"]) == (str(last_checkpoint(eight_steps)), 8)
    assert history["changed"] == {
        "epochs": [2, 3],
        "temperature": [0.07, 0.5],
        "method.temperature": [0.07, 0.5],
        "optimizer.lr": [0.0003, 0.01],
        "optimizer.weight_decay": [0.0, 0.1],
    }
    assert "From here on optimizer.lr=0.01, where it was 0.0003." in caplog.text
    assert checkpoint["resumed_from"] == [history]  # which a kill does not forget


def test_a_checkpoint_of_a_run_and_its_directory_are_the_same_to_resume_from(eight_steps):
    paths = (eight_steps, last_checkpoint(eight_steps))
    ours, theirs = (
        weights(trained(*TINY_RUN, "epochs=3", f"resume={path}", f"output_root=root{i}"))
        for i, path in enumerate(paths)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    Path("nothing").mkdir()
    with pytest.raises(InputError, match=r"there is no checkpoint .*nothing.*/last\.ckpt"):
        trained(*TINY_RUN, "epochs=3", "resume=nothing")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer._target_=torch.optim.SGD", r"optimizer\._target_=torch\.optim\.Adam, .* =?torch\.optim\.SGD"),
        ("optimizer._target_=torch.optim.AdamW", r"has optimizer\._target_=torch\.optim\.Adam, and this run has"),
        ("+optimizer.amsgrad=true", r"has optimizer\.amsgrad=None, and this run has optimizer\.amsgrad=True"),
        ("seed=4", "has seed=0, and this run has seed=4"),
        ("batch_size=8", "has batch_size=16, and this run has batch_size=8"),
        ("head=baseline", r"has head\.hidden_features=256, and this run has head\.hidden_features=512"),
        ("data.size=24", r"has data\.size=16, and this run has data\.size=24"),
        ("augmentation.hue=0.1", r"has augmentation\.hue=0\.2"),
        ("backbone.stem=small", r"has backbone\.stem=standard"),
    ],
)
def test_what_cannot_hold_is_refused_by_name_and_leaves_nothing(eight_steps, override, said):
    overrides = [*TINY_RUN, "optimizer.fused=false", override, f"resume={eight_steps}"]
    with pytest.raises(InputError, match=said.replace("=?torch", "optimizer\\._target_=torch")):
        trained(*overrides)
    assert not [path for path in Path().rglob("*") if path.is_file()]


@pytest.mark.slow
def test_a_longer_run_is_told_of_the_shorter_one_and_how_to_go_on_from_it(eight_steps, caplog):
    shutil.copytree(eight_steps.parent, "outputs")
    shorter = Path("outputs").absolute() / eight_steps.name
    caplog.set_level("INFO")
    trained(*TINY_RUN, "epochs=3")
    (said,) = [text for text in caplog.messages if "epochs alone" in text]
    arguments = said.split("python train.py ")[1].split()
    assert arguments[-1] == f"resume={shorter}"
    caplog.clear()
    trained(*arguments, "name=longer")
    assert f"Going on from {last_checkpoint(shorter)}, step 8." in caplog.text
    caplog.clear()
    trained(*TINY_RUN, "epochs=3", "seed=1")
    assert "epochs alone" not in caplog.text


IMAGES = [image_bytes(np.full((16, 16, 3), shade, np.uint8)) for shade in range(40)]
FOLDER_RUN = ("data=image_folder", "data.size=16", "batch_size=16", "epochs=1", "precision=32")


def folder(path: str, shades: range) -> Path:
    return write_folder(Path(path), {f"{'ab'[shade % 2]}/{shade}.png": IMAGES[shade] for shade in shades})


def key(run_dir: Path) -> str:
    return json.loads((run_dir / "images.json").read_text("utf-8"))["train_images_key"]


@pytest.mark.slow
def test_images_belong_to_a_run_wherever_they_lie(tmp_path, caplog):
    """One run: by a relative path, by an absolute one, by a link, of a copy; another: of other images of that name."""
    caplog.set_level(logging.INFO)
    folder("images", range(30))
    run_dir = trained(*FOLDER_RUN, "data.root=images")
    metrics = json.loads((run_dir / "metrics.json").read_text("utf-8"))
    assert key(run_dir) == metrics["train_images_key"] == load_checkpoint(last_checkpoint(run_dir))["train_images_key"]
    assert OmegaConf.load(run_dir / "config.yaml").data.root == str(tmp_path / "images")
    (tmp_path / "link").symlink_to("images")
    shutil.copytree("images", "copy", copy_function=shutil.copyfile)
    for root in (tmp_path / "images", "link", "copy"):
        caplog.clear()
        assert trained(*FOLDER_RUN, f"data.root={root}") == run_dir
        assert "This run has finished already" in caplog.text
    folder("elsewhere/images", range(10, 40))
    others = trained(*FOLDER_RUN, "data.root=elsewhere/images")
    assert others != run_dir
    assert key(others) != key(run_dir)
    assert trained(*FOLDER_RUN, "data.root=elsewhere/images") == others


@pytest.mark.parametrize("finished", [True, False])
def test_images_that_have_changed_are_refused_and_both_keys_named(finished, tmp_path):
    root = folder("images", range(30))
    run_dir = trained(*FOLDER_RUN, f"data.root={root}")
    then = key(run_dir)
    if not finished:
        (run_dir / "metrics.json").unlink()  # as if killed before its end
    folder("images", range(30, 32))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file() and "lock" not in path.name}
    with pytest.raises(InputError, match=rf"other images \(key {then}\) than those at data\.root=.*/images now \(key "):
        trained(*FOLDER_RUN, f"data.root={root}")
    assert before == {path: path.read_bytes() for path in before}
    assert trained(*FOLDER_RUN, f"data.root={root}", "resume=never") == run_dir
    assert key(run_dir) != then
    assert key(trained(*FOLDER_RUN, f"data.root={root}", "name=both")) == key(run_dir)


def test_a_finished_run_whose_images_are_gone_has_still_finished(caplog):
    caplog.set_level(logging.INFO)
    root = folder("images", range(30))
    run_dir = trained(*FOLDER_RUN, f"data.root={root}")
    shutil.rmtree(root)
    assert trained(*FOLDER_RUN, f"data.root={root}") == run_dir
    assert "Its images cannot be opened at data.root=" in caplog.text
    assert "This run has finished already" in caplog.text


def test_a_path_may_hold_what_looks_like_a_reference(tmp_path):
    """It is kept as it is, in config.yaml and in the checkpoint, and found again."""
    images = {f"{i % 2}/{i}.png": image_bytes(np.full((16, 16, 3), 6 * i, np.uint8)) for i in range(40)}
    write_folder(tmp_path / "d${b}", images)
    overrides = ("data=image_folder", f'data.root="{tmp_path}/d\\${{b}}"', "data.size=16", *TINY_RUN[4:], "epochs=1")
    run_dir = trained(*overrides)
    assert trained(*overrides) == run_dir
    assert load_checkpoint(last_checkpoint(run_dir))["config"]["data"]["root"] == f"{tmp_path}/d${{b}}"


def test_a_wrong_path_is_never_a_run_that_has_finished(tmp_path):
    """Neither a place that does not exist nor one whose images cannot be read counts as the images of another."""
    images = {f"{i % 2}/{i}.png": image_bytes(np.full((16, 16, 3), 6 * i, np.uint8)) for i in range(40)}
    write_folder(tmp_path / "images", images)
    write_folder(tmp_path / "other" / "train", images)
    write_folder(tmp_path / "other" / "test", images)
    overrides = ("data=image_folder", "data.size=16", *TINY_RUN[4:], "epochs=1")
    finished = trained(*overrides, f"data.root={tmp_path / 'images'}")
    before = (finished / "metrics.json").stat().st_mtime_ns
    for wrong in ("nowhere", "other", "nowhere/at/all.zip"):
        with pytest.raises(InputError, match=r"data\.root=|has train/"):
            trained(*overrides, f"data.root={tmp_path / wrong}")
    assert [path.parent for path in finished.parent.glob("*/metrics.json")] == [finished]
    assert (finished / "metrics.json").stat().st_mtime_ns == before
