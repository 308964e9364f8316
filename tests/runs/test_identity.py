"""A run of an earlier version is the run of the same command today: kept configurations of each, and what they say."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from simclr.errors import InputError
from simclr.report.runs import flat, read_sweep
from simclr.runs.checkpoint import Loaded, check_fits, last_checkpoint, load_checkpoint, previous_checkpoint
from simclr.runs.compose import CONFIGS
from simclr.runs.directory import claimed
from simclr.runs.identity import LATER, as_dict, run_identity
from tests.conftest import TINY_RUN, only_run, weights

# What each version of the configurations made of three commands: its commit, the command, the run's directory and
# config.yaml. A line is written once and never changed; the last commit is the latest.
KEPT = [json.loads(line) for line in (Path(__file__).parent / "kept_runs.jsonl").read_text("utf-8").splitlines()]


def composed(*overrides: str) -> tuple[Path, DictConfig]:
    """Today's run directory and configuration of a command."""
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
    check_fits(checkpoint, as_dict(config), "images", 10)
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
        "compile=true",
        "on_nan=skip",
        "method.micro_batch=8",
        "trainer=ddp",
        "augmentation.hue=0.3",
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


def test_every_key_was_known_to_the_latest_kept_version_or_has_a_line():
    """A new key would give every run another directory, and none begun before it would be found."""
    latest = [kept for kept in KEPT if kept["commit"] == KEPT[-1]["commit"]]
    for kept in latest:
        config = OmegaConf.create(run_identity(composed(*kept["command"])[1]))
        later = {key for key, _ in LATER}
        new = flat(as_dict(config)).keys() - flat(kept["config"]).keys()
        unsaid = {key for key in new if not any(key == known or key.startswith(f"{known}.") for known in later)}
        assert not unsaid, "add a line to simclr.runs.identity.LATER: the value of a run that did not know the key"


def test_runs_of_two_versions_differ_in_the_report_by_nothing_that_the_earlier_did_not_know(tmp_path):
    first, last = (kept for kept in KEPT if not kept["command"] and kept["commit"] in (KEPT[0]["commit"], "43f0e29"))
    for kept in (first, last):
        run_dir = tmp_path / kept["commit"]
        run_dir.mkdir()
        OmegaConf.save(OmegaConf.create(kept["config"]), run_dir / "config.yaml")
        (run_dir / "metrics.json").write_text("{}", encoding="utf-8")
    old, new = read_sweep(tmp_path).settings.to_dict("records")
    for settings in (old, new):
        for key in ("evaluate", "requeue_exit_code"):  # they decide nothing
            settings.pop(key, None)
    assert old == new


@pytest.mark.slow
def test_a_run_begun_by_the_first_version_ends_under_this_one(finished, run, tmp_path):
    """Its configuration, its directory's name and its checkpoint after one epoch, less all that came later."""
    new = only_run(finished / "outputs")
    config = OmegaConf.load(new / "config.yaml")
    for key in ("evaluate", "requeue_exit_code", *(key for key, _ in LATER)):
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
