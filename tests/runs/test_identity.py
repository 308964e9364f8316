"""A run of an earlier version is the run of the same command today: kept configurations of each, and what they say."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from simclr.errors import InputError
from simclr.report.factors import find_design
from simclr.report.runs import read_sweep
from simclr.runs.checkpoint import Loaded, check_fits, last_checkpoint, load_checkpoint, previous_checkpoint
from simclr.runs.compose import prefer_own_configs
from simclr.runs.configs import CONFIGS
from simclr.runs.directory import claimed
from simclr.runs.identity import LATER, as_dict, flat, identity, kind
from tests.conftest import TINY_RUN, only_run, weights

# What each version of the configurations made of three commands: its commit, the command, the run's directory and
# config.yaml. A line is written once and never changed; the last commit is the latest.
KEPT = [json.loads(line) for line in (Path(__file__).parent / "kept_runs.jsonl").read_text("utf-8").splitlines()]
# The quickstart warms up since, which makes it another run; the one before is today's with this.
KEPT = [
    kept | {"command": [*kept["command"], "scheduler.warmup_epochs=0"]}
    if "experiment=quickstart" in kept["command"]
    else kept
    for kept in KEPT
]


def composed(*overrides: str) -> tuple[Path, DictConfig]:
    """Today's run directory and configuration of a command."""
    prefer_own_configs()  # as every command does; what the files refer to is known then
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    run_dir = Path(config.hydra.run.dir)
    with open_dict(config):
        del config["hydra"]
    return run_dir, config


def begin(kept: dict[str, Any]) -> Path:
    """What the earlier version left of the run, in the working directory."""
    run_dir = Path(kept["directory"])
    (run_dir / "checkpoints").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(kept["config"]), run_dir / "config.yaml")
    return run_dir


@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: f"{kept['commit']} {' '.join(kept['command'])}")
def test_the_command_of_an_earlier_version_finds_its_run_and_goes_on(kept, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = begin(kept)
    run_dir, config = composed(*kept["command"])
    assert run_dir == old
    with claimed(run_dir, config):
        pass
    checkpoint = Loaded(run_dir / "checkpoints" / "last.ckpt", {"config": kept["config"], "global_step": 3})
    assert check_fits(checkpoint, as_dict(config), "images", 10) == {}
    # In a sweep it lies elsewhere, and is found there as well.
    (tmp_path / "multirun").mkdir()
    old.rename(tmp_path / "multirun" / old.name)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = [*kept["command"], "hydra.mode=MULTIRUN", "hydra.sweep.dir=multirun"]
        sweep = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(sweep)
    assert sweep.hydra.sweep.subdir == old.name


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "optimizer.lr=1e-3",
        "on_nan=skip",
        "method.micro_batch=8",
        "augmentation.hue=0.3",
        "+trainer.gradient_clip_val=1",
        "+callbacks.stop={_target_:pytorch_lightning.callbacks.EarlyStopping,monitor:train/loss}",
    ],
)
def test_another_command_is_another_run_and_refused_there(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kept in (kept for kept in KEPT if not kept["command"]):
        old = begin(kept)
        run_dir, config = composed(override)
        assert run_dir != old
        with pytest.raises(InputError, match="belongs to a run with another"), claimed(old, config):
            pass


def test_todays_own_directory_comes_before_an_earlier_versions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    today, config = composed()
    with claimed(today, config):
        pass
    for kept in KEPT:
        if not kept["command"] and Path(kept["directory"]) != today:
            begin(kept)
    assert composed()[0] == today


@pytest.mark.parametrize(
    "override",
    [
        "checkpoint_minutes=1",
        "keep_every_n_epochs=null",
        "callbacks.progress.line_every_seconds=5",
        "callbacks.online_knn=null",
        "callbacks.online_knn.k=5",
        "logger=[tensorboard,csv]",
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "data.store=elsewhere",
        "backbone.small_maps=false",
        "optimizer.fused=false",
        "evaluate=[knn]",
        "resume=never",
    ],
)
def test_how_a_run_is_carried_out_does_not_make_it_another(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual, config = composed()
    assert composed(override)[0] == usual
    with claimed(usual, config):
        pass
    with claimed(usual, composed(override)[1]):
        pass


GROUPS = sorted({path.parent.name for path in CONFIGS.glob("*/*.yaml")} - {"hydra", "hparams_search", "protocol"})
OPTIONS = [f"{path.parent.name}={path.stem}" for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_key_of_every_choice_is_sorted(option):
    """Whether a new key makes another run is decided by whoever adds it, in simclr.runs.identity.KINDS."""
    keys = flat(OmegaConf.to_container(composed(option)[1], resolve=False))
    assert [key for key in keys if kind(key) is None] == []


def test_a_key_that_has_come_later_names_no_run_anew():
    """So that it takes a line in LATER alone: none of them, at what it then was, is in any identity."""
    for option in ("data=tiny_imagenet", "data=image_folder"):
        assert not identity(as_dict(composed(option)[1])).keys() & {key for key, *_ in LATER}


def test_no_key_that_was_known_to_an_earlier_version_is_lost():
    """What moves or is renamed needs a line in MOVED or RESHAPED, or the runs that had it are never found again."""
    for kept in KEPT:
        today = as_dict(composed(*kept["command"])[1])
        assert identity(kept["config"]) == identity(today)


@pytest.mark.slow
def test_an_earlier_run_is_found_among_hundreds_and_each_file_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = KEPT[0]
    for number in range(300):
        other = tmp_path / "outputs" / f"other-{number}"
        other.mkdir(parents=True)
        changed = {"seed": number + 1, "name": f"simclr-modified-slim-seed{number + 1}"}
        OmegaConf.save(OmegaConf.create(kept["config"] | changed), other / "config.yaml")
    old = begin(kept)
    assert composed()[0] == old
    for path in tmp_path.glob("outputs/other-*/config.yaml"):
        stamp = path.stat()
        path.write_bytes(b"\0" * stamp.st_size)  # no YAML: it would not be found, were it read again
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert composed("seed=7")[0] == Path("outputs/other-6")


def test_runs_of_two_versions_differ_in_the_report_by_nothing_that_the_earlier_did_not_know(tmp_path):
    first, last = (kept for kept in KEPT if not kept["command"] and kept["commit"] in (KEPT[0]["commit"], "43f0e29"))
    for kept in (first, last):
        run_dir = tmp_path / kept["commit"]
        run_dir.mkdir()
        OmegaConf.save(OmegaConf.create(kept["config"]), run_dir / "config.yaml")
        (run_dir / "metrics.json").write_text("{}", encoding="utf-8")
    assert not find_design(read_sweep(tmp_path), CONFIGS, {}).factors


@pytest.mark.slow
def test_a_run_begun_by_the_first_version_ends_under_this_one(finished, run, tmp_path):
    """Its configuration, its directory's name and its checkpoint after one epoch, less all that came later."""
    new = only_run(finished / "outputs")
    config = OmegaConf.load(new / "config.yaml")
    later = ("backbone.small_maps", "optimizer.fused", "method.micro_batch", "trainer.strategy", "callbacks.label_free")
    later += ("backbone.pretrained_path", "backbone.pretrained_digest", "callbacks.tensorboard", "trainer.benchmark")
    config.logger = KEPT[0]["config"]["logger"]
    runs = ("evaluate", "optimized_metric", "requeue_exit_code", "keep_every_n_epochs", "compile", "threads")
    for key in (*runs, *later, *(key for key, *_ in LATER)):
        parent, _, leaf = key.rpartition(".")
        (OmegaConf.select(config, parent) if parent else config).pop(leaf, None)  # some are not of this data set
    assert (
        flat(as_dict(config)).keys() - {"data.train_count", "data.val_count", "data.seed"}
        <= flat(KEPT[0]["config"]).keys()
    )
    hashed = {
        key: value for key, value in as_dict(config).items() if key not in ("name", "output_root", "sweep", "resume")
    }
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:8]
    old = tmp_path / "outputs" / f"{config.name}-{digest}"
    (old / "checkpoints").mkdir(parents=True)
    OmegaConf.save(config, old / "config.yaml")
    checkpoint = load_checkpoint(previous_checkpoint(new))
    assert checkpoint.pop("skipped_steps") == (0, 0)
    torch.save(checkpoint | {"config": as_dict(config)}, last_checkpoint(old))
    done = run("train.py", *TINY_RUN)
    assert "An earlier version began this run; it goes on." in done.stdout
    assert f"Going on from {last_checkpoint(old)}, step {checkpoint['global_step']}." in done.stdout
    assert only_run(tmp_path / "outputs") == old
    assert json.loads((old / "metrics.json").read_text("utf-8"))["epochs"] == 2
    assert all(torch.equal(tensor, weights(new)[name]) for name, tensor in weights(old).items())
