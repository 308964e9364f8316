"""The same sweep started more than once, as several machines that see one folder do: it is trained once in all."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.conftest import TINY_RUN, CommandServer, Started, command, scalars, weights

FOUR = ("-m", "data=shapes", "seed=1,2,3,4")


def counts(sweep: Started) -> str:
    """The last line of a command that ended well."""
    assert sweep.wait() == 0, sweep.said
    assert "error" not in sweep.said
    return sweep.stdout.splitlines()[-1]


Start = Callable[..., Started]


@pytest.fixture
def start(tmp_path, command_server: CommandServer) -> Iterator[Start]:
    """start(name, overrides..., VARIABLE=value) starts a sweep of quick runs, or of another program, in tmp_path."""
    started = []

    def start(
        name: str, *overrides: str, program: str = "tests/quick_sweep.py", folder: Path = tmp_path, **variables: str
    ) -> Started:
        asked = command(program, *(overrides or FOUR))
        started.append(command_server.start(asked, folder, NAME=name, **variables))
        return started[-1]

    yield start
    for one in started:
        if one.poll() is None:
            one.kill()


def trained_by(folder: Path) -> dict[int, list[str]]:
    """Who began to train each seed, in order."""
    found = {}
    for file in folder.glob("multirun/*/*/trained_by"):
        (seed,) = re.findall(r"seed(\d+)", file.parent.name)
        found[int(seed)] = file.read_text(encoding="utf-8").split()
    return dict(sorted(found.items()))


def accounts(folder: Path) -> list[Path]:
    """Where commands keep their notes of what became of the runs."""
    return [path for path in folder.glob("multirun/*/.jobs-*") if path.is_dir()]


@pytest.mark.slow
def test_commands_that_start_together_train_every_run_once(start, tmp_path):
    names = ("anna", "ben", "cleo")
    told = [counts(sweep) for sweep in [start(name) for name in names]]
    assert all(re.match("4 runs: 0 had finished, 0 resumed, ", line) and "0 failed" in line for line in told)
    by = trained_by(tmp_path)
    assert list(by) == [1, 2, 3, 4]
    assert all(len(trainers) == 1 for trainers in by.values())
    for name, line in zip(names, told, strict=True):
        own = sum(name in trainers for trainers in by.values())
        others = f", {4 - own} trained by others" if own < 4 else ""
        assert f" {own} trained{others}, 0 failed" in line
    assert counts(start("dora")) == "4 runs: 4 had finished, 0 resumed, 0 trained, 0 failed"
    assert not list(tmp_path.glob("multirun/grid/.*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "resume"),
    [
        ("basic", "auto"),
        ("basic", "never"),
        ("joblib", "auto"),
        ("joblib", "never"),
    ],
)
def test_a_run_in_use_is_left_to_its_process_and_counted_as_theirs(start, tmp_path, launcher, resume):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    overrides = (*FOUR, f"hydra/launcher={launcher}", f"resume={resume}")
    if resume == "never":
        counts(start("before", *FOUR, "seed=1,2"))  # what is there already is to be trained anew
    anna = start("anna", *FOUR, f"resume={resume}", HOLD="yes")
    anna.wait_until(lambda: "anna" in trained_by(tmp_path).get(1, []))
    ben = start("ben", *overrides)
    ben.wait_until(lambda: "Waiting for what other processes train: " in ben.said)
    assert len(accounts(tmp_path)) == 2
    (tmp_path / "release").touch()
    assert counts(ben) == "4 runs: 0 had finished, 0 resumed, 3 trained, 1 trained by others, 0 failed"
    assert counts(anna) == "4 runs: 0 had finished, 0 resumed, 1 trained, 3 trained by others, 0 failed"
    since = {seed: [name for name in names if name != "before"] for seed, names in trained_by(tmp_path).items()}
    assert since == {1: ["anna"], 2: ["ben"], 3: ["ben"], 4: ["ben"]}


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_taken_over(start, tmp_path):
    anna = start("anna", HOLD="yes")
    anna.wait_until(lambda: 1 in trained_by(tmp_path))
    ben = start("ben")
    ben.wait_until(lambda: "Waiting for" in ben.said)
    anna.kill()
    assert counts(ben) == "4 runs: 0 had finished, 0 resumed, 4 trained, 0 failed"
    assert trained_by(tmp_path) == {1: ["anna", "ben"], 2: ["ben"], 3: ["ben"], 4: ["ben"]}
    assert len(accounts(tmp_path)) == 1  # of the one that was killed
    assert counts(start("anna")) == "4 runs: 4 had finished, 0 resumed, 0 trained, 0 failed"
    assert not list(tmp_path.glob("multirun/grid/.*"))


@pytest.mark.slow
def test_who_waits_for_others_leaves_when_asked_to(start, tmp_path):
    anna = start("anna", HOLD="yes")
    anna.wait_until(lambda: 1 in trained_by(tmp_path))
    ben = start("ben")
    ben.wait_until(lambda: "Waiting for" in ben.said)
    ben.send_signal(signal.SIGUSR1)
    assert ben.wait(timeout=60) == 75
    assert ben.said.splitlines()[-1] == "4 runs: 0 had finished, 0 resumed, 3 trained, 1 left to others, 0 failed"


@pytest.mark.slow
def test_a_search_started_twice_learns_from_the_same_runs(start, tmp_path):
    pytest.importorskip("optuna")
    search = ("-m", "data=shapes", "hparams_search=optuna", "hydra.sweeper.n_trials=4", "seed=choice(1,2,3,4,5)")
    told = [counts(sweep) for sweep in (start("anna", *search), start("ben", *search))]
    assert all(line.startswith("4 runs: ") for line in told)
    files = list(tmp_path.glob("multirun/search/*/trained_by"))
    assert files
    assert all(len(file.read_text(encoding="utf-8").split()) == 1 for file in files)
    best = OmegaConf.load(tmp_path / "multirun" / "search" / "optimization_results.yaml").best_value
    assert best == max(
        json.loads(p.read_text())["val/knn_top1"] for p in tmp_path.glob("multirun/search/*/metrics.json")
    )


@pytest.mark.slow
def test_two_sweeps_of_which_one_is_killed_end_as_one_that_was_alone(start, tmp_path):
    """train.py itself: the killed one's run goes on where it stopped, and no step is made twice."""
    whole = ("-m", *TINY_RUN, "data.train_count=192", "seed=1,2,3,4")
    sweep = (*whole, "checkpoint_minutes=0.01")
    together, alone = tmp_path / "together", tmp_path / "alone"
    for folder in (together, alone):
        folder.mkdir()

    def runs(folder: Path, file: str) -> list[str]:
        return sorted({path.relative_to(folder).parts[2] for path in folder.glob(f"multirun/grid/simclr-*/{file}")})

    def finished(folder: Path) -> set[str]:
        return set(runs(folder, "metrics.json"))

    def begun(by: Started) -> list[str]:
        return runs(together, f"events.out.tfevents.*.{by.pid}.*")

    anna = start("anna", *sweep, program="train.py", folder=together)
    anna.wait_until(lambda: begun(anna))
    ben = start("ben", *sweep, program="train.py", folder=together)
    ben.wait_until(lambda: begun(ben))
    anna.wait_until(lambda: set(begun(anna)) & set(runs(together, "checkpoints/last.ckpt")) - finished(together))
    anna.kill()
    assert set(begun(anna)) - finished(together), "its run was over before the kill"
    line = counts(ben)
    assert " 1 resumed, " in line
    assert line.endswith(", 0 failed")
    again = start("anna", *sweep, program="train.py", folder=together)
    assert counts(again) == "4 runs: 4 had finished, 0 resumed, 0 trained, 0 failed"

    counts(start("alone", *whole, program="train.py", folder=alone))
    assert finished(together) == finished(alone)
    for name in finished(alone):
        ours, expected = together / "multirun" / "grid" / name, alone / "multirun" / "grid" / name
        assert scalars(ours)["train/loss"] == scalars(expected)["train/loss"]
        assert all(torch.equal(tensor, weights(ours)[key]) for key, tensor in weights(expected).items())


@pytest.mark.slow
def test_runs_of_several_processes_are_shared_too(start, tmp_path):
    """Both commands find the first run free and start its processes, one of which claims it."""
    sweep = ("-m", *TINY_RUN, "trainer=ddp", "trainer.devices=2", "seed=1,2", "callbacks.online_knn=null")
    commands = [start(name, *sweep, program="train.py") for name in ("anna", "ben")]
    told = [counts(one) for one in commands]
    assert all(re.match("2 runs: 0 had finished, 0 resumed, . trained.*, 0 failed", line) for line in told)
    assert sum(int(re.search(r"(\d) trained", line)[1]) for line in told) == 2
    assert len(list(tmp_path.glob("multirun/grid/simclr-*/events.out.tfevents.*"))) == 2
