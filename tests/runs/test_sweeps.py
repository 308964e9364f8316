"""Sweeps: repeating the command of a finished or killed one, the launchers that run its jobs, and the search."""

import dataclasses
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from simclr.runs.compose import prefer_own_configs
from tests.conftest import REPOSITORY, TINY_RUN, Run, Started, command, environment, wait_until, weights
from tests.test_configs import composed

LAUNCHERS = REPOSITORY / "configs" / "hydra" / "launcher"
# 12 steps an epoch: long enough to be killed in the second, after the first one's checkpoint.
SWEEP = ("-m", *TINY_RUN, "data.train_count=192", "seed=1,2,3,4")
SEARCH = (*TINY_RUN, "data.train_count=192", "hparams_search=optuna")


def kill_in_the_second(process: Started, folder: Path) -> set[Path]:
    """Kill all of a sweep in `folder` with SIGKILL in its second run; returns the runs it began."""
    saved = "multirun/*/*/checkpoints/last.ckpt"
    process.wait_until(lambda: len(list(folder.glob(saved))) >= 2)
    process.kill()
    assert len(list(folder.glob("multirun/*/*/metrics.json"))) == 1, "the second run was over before the kill"
    return set(folder.glob("multirun/*/simclr-*"))


@pytest.fixture
def repeat(start_training: Callable[..., Started]) -> Callable[..., str]:
    """repeat(folder, overrides...) is what the command says in `folder`, to its end."""

    def repeat(folder: Path, *overrides: str) -> str:
        done = start_training(folder, *overrides)
        assert done.wait() == 0, done.said
        return done.stdout

    return repeat


def assert_same_numbers(ours: Path, theirs: Path) -> None:
    """The runs of two sweeps, by name: weights to the bit and every measured value but those of the clock."""
    runs = sorted(path.name for path in theirs.glob("simclr-*"))
    assert runs == sorted(path.name for path in ours.glob("simclr-*"))
    for name in runs:
        mine, other = weights(ours / name), weights(theirs / name)
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[key], tensor) for key, tensor in other.items())
        metrics, expected = (json.loads((root / name / "metrics.json").read_text()) for root in (ours, theirs))
        for tag in ("train/loss", "train/top1", "train/lr", "val/knn_top1", "images_seen"):
            assert metrics[tag] == expected[tag]


@pytest.mark.slow
def test_a_killed_sweep_completes_with_the_numbers_of_one_that_was_not_and_then_has_nothing_to_do(
    tmp_path, start_training, repeat
):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert len(kill_in_the_second(start_training(killed, *SWEEP), killed)) == 2
    assert "4 runs: 1 had finished, 1 resumed, 2 trained, 0 failed\n" in repeat(killed, *SWEEP)
    repeat(undisturbed, *SWEEP)
    grid = killed / "multirun" / "grid"
    assert_same_numbers(grid, undisturbed / "multirun" / "grid")
    assert not list(grid.glob(".jobs-*"))

    kept = [path for path in grid.glob("simclr-*/**/*") if path.is_file() and path.suffix not in (".log", ".lock")]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}
    assert sum(path.suffix == ".ckpt" for path in before) >= 4
    assert sum("tfevents" in path.name for path in before) >= 4  # a step would add to the curves
    assert "4 runs: 4 had finished, 0 resumed, 0 trained, 0 failed\n" in repeat(killed, *SWEEP)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "launcher"), [("hydra_joblib_launcher", "joblib"), ("hydra_submitit_launcher", "submitit_local")]
)
def test_jobs_in_other_processes(run: Run, tmp_path, plugin, launcher):
    """A cell that is refused there is told and gives exit status 1; relative folders are those of the command."""
    pytest.importorskip(f"hydra_plugins.{plugin}")
    overrides = ("-m", *TINY_RUN, "epochs=1", f"hydra/launcher={launcher}", "temperature=0.1,-1", "output_root=here")
    done = run("train.py", *overrides, check=False)
    assert done.returncode == 1
    assert "2 runs: 0 had finished, 0 resumed, 1 trained, 1 failed\n" in done.stdout
    assert "temperature=-1 is not usable" in done.stderr
    assert "1 of the sweep's runs failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("here/grid/*/metrics.json"))) == 1


@pytest.mark.slow
def test_jobs_in_other_processes_outlive_the_reader_of_their_output_too(tmp_path):
    """The sweep's pipe is closed after its first line; what the jobs draw while they judge goes into it as well."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    overrides = ("-m", *TINY_RUN, "epochs=1", "evaluate=[linear]", "hydra/launcher=joblib", "seed=1,2")
    arguments = command("train.py", *overrides)
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=240) == 0
    assert len(list(tmp_path.glob("multirun/grid/*/linear_eval.json"))) == 2


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core cannot be shared")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_jobs_at_once_share_the_cores_and_save_themselves_on_a_signal(tmp_path, name, status):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    without = {key: value for key, value in environment().items() if not key.endswith("_NUM_THREADS")}
    overrides = ("-m", *TINY_RUN, "data.train_count=480", "hydra/launcher=joblib", "seed=1,2", "checkpoint_minutes=60")
    arguments = command("train.py", *overrides, "callbacks.online_knn=null", "epochs=3")
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=without, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    saved = "multirun/grid/*/checkpoints/last.ckpt"
    wait_until(lambda: len(list(tmp_path.glob(saved))) >= 2, process)  # both in their second epoch
    if name == "SIGINT":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends Ctrl-C, to the jobs' processes as well
    else:
        process.send_signal(signal.Signals[name])
    text, _ = process.communicate(timeout=120)
    assert process.returncode == status
    assert text.count(f"{'SIGTERM' if name == 'SIGINT' else name}: stopped at step") == 2
    assert "2 cut off; repeat the command to go on" in text
    done = subprocess.run(arguments, cwd=tmp_path, env=without, capture_output=True, text=True, timeout=240)
    assert "2 runs: 0 had finished, 2 resumed, 0 trained, 0 failed\n" in done.stdout
    share = f"{max(1, len(os.sched_getaffinity(0)) // 2)} threads"
    for metrics in tmp_path.glob("multirun/grid/*/metrics.json"):
        assert json.loads(metrics.read_text())["device"].endswith(share)


@pytest.mark.slow
def test_a_cluster_job_saves_itself_at_its_time_limit_and_submitit_starts_it_again(tmp_path, start_training):
    """submitit's own handling of SIGUSR2, which SLURM sends before the limit; here its local executor requeues."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = ("-m", *TINY_RUN, "data.train_count=192", "hydra/launcher=submitit_local", "checkpoint_minutes=60")
    process = start_training(tmp_path, *overrides)
    process.wait_until(lambda: any(tmp_path.glob("multirun/grid/*/checkpoints/last.ckpt")))  # in its second epoch
    (job,) = (
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "submitit.core._submit" in child.cmdline()
    )
    job.send_signal(signal.SIGUSR2)
    assert process.wait() == 0, process.said
    assert "1 run: 0 had finished, 1 resumed, 0 trained, 0 failed\n" in process.stdout
    (log,) = tmp_path.glob("multirun/grid/simclr-*/train.log")
    stopped, resumed = (
        re.search(pattern, log.read_text(encoding="utf-8"))
        for pattern in (r"SIGUSR2: stopped at step (\d+)", r"Going on from .*, step (\d+)")
    )
    assert 12 <= int(stopped[1]) < 24
    assert stopped[1] == resumed[1]


@pytest.mark.slow
def test_a_killed_search_completes_as_one_that_was_not(tmp_path, start_training, repeat):
    pytest.importorskip("optuna")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    overrides = (*SEARCH, "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.n_startup_trials=1")
    kill_in_the_second(start_training(killed, *overrides), killed)
    assert "3 runs: 1 had finished, 1 resumed, 1 trained, 0 failed\n" in repeat(killed, *overrides)
    repeat(undisturbed, *overrides)
    ours, theirs = killed / "multirun" / "search", undisturbed / "multirun" / "search"
    assert_same_numbers(ours, theirs)
    best = OmegaConf.load(ours / "optimization_results.yaml")
    assert best == OmegaConf.load(theirs / "optimization_results.yaml")
    values = [json.loads(path.read_text())["val/knn_top1"] for path in ours.glob("*/metrics.json")]
    assert best.best_value == max(values)


@pytest.mark.parametrize(
    ("choice", "package", "extra"),
    [
        ("hydra/launcher=joblib", "hydra_plugins.hydra_joblib_launcher", "joblib"),
        ("hydra/launcher=submitit_slurm", "hydra_plugins.hydra_submitit_launcher", "slurm"),
        ("hydra/sweeper=optuna", "optuna", "optuna"),
    ],
)
def test_what_is_not_installed_says_how_to(tmp_path, choice, package, extra):
    """Python is told that there is no such package, before it starts the command."""
    arguments = [*command("train.py")[1:], "-m", *TINY_RUN, choice]
    code = (
        "import runpy, sys\n"
        f"sys.modules[{package!r}] = None\n"
        f"sys.argv = {arguments}; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    python = command("train.py")[0]
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    needs = f'error: {choice} needs a package that is not installed: pip install -e ".[{extra}]"\n'
    assert done.stderr.endswith(needs)
    assert "Traceback" not in done.stderr


def test_slurm_takes_every_key_of_its_launcher(monkeypatch):
    """Against the plugin's own list of them, and submitit's script for sbatch."""
    config_module = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    from submitit.slurm.slurm import _make_sbatch_string

    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    prefer_own_configs()
    launcher = OmegaConf.to_container(composed("hydra/launcher=submitit_slurm", sweep=True).hydra.launcher)
    assert launcher.keys() <= {field.name for field in dataclasses.fields(config_module.SlurmQueueConf)}
    known = {"partition", "account", "qos", "constraint", "nodes", "gpus_per_node", "cpus_per_task", "signal_delay_s"}
    given = {key: value for key, value in launcher.items() if key in known and value is not None}
    script = _make_sbatch_string(command="x", folder="y", job_name="simclr", **given)
    assert "#SBATCH --gpus-per-node=1" in script
    assert "#SBATCH --signal=USR2@120" in script


def test_a_search_maximises_what_training_returns_over_keys_that_there_are():
    prefer_own_configs()
    config = composed("hparams_search=optuna", sweep=True)
    assert config.hydra.sweeper.direction == "maximize"
    assert config.hydra.sweep.dir == "multirun/search"
    for key in config.hydra.sweeper.params:
        assert OmegaConf.select(config, key) is not None
    assert config.hydra.sweeper.n_jobs == 1
    side_by_side = composed("hparams_search=optuna", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", sweep=True)
    assert side_by_side.hydra.sweeper.n_jobs == 3


def test_ready_launchers_say_how_to_run_them():
    for path in LAUNCHERS.glob("*.yaml"):
        assert f"python train.py -m hydra/launcher={path.stem}" in path.read_text()
