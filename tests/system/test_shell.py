"""What lies in the environment: a run is what its command says, whatever the shell holds."""

import inspect
import json
import os
import re

import pytest
import pytorch_lightning as pl

from simclr.errors import InputError
from simclr.system.shell import COUNTS, OTHER_MODULE, PLACES, TORCHRUN, arithmetic, settle, started_by_torchrun
from simclr.training.trainer_settings import INSTEAD, check_trainer_settings
from tests.conftest import TINY_RUN, Run, only_run, scalars

ARGUMENTS = [name for name in inspect.signature(pl.Trainer).parameters if name != "self"]


@pytest.fixture
def empty_shell(monkeypatch):
    """An environment that says nothing of processes; what a test removes comes back."""
    for name in (*PLACES, *TORCHRUN, *COUNTS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.slow
def test_a_lone_process_is_the_first_of_one_whatever_the_shell_holds(run: Run, tmp_path, finished, monkeypatch):
    for name in PLACES:
        monkeypatch.setenv(name, "2" if name.endswith("SIZE") else "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "of another program")
    monkeypatch.setenv("SLURM_NTASKS", "2")  # of a batch script that asked for two and starts this command once
    done = run("train.py", *TINY_RUN, fresh=True)
    assert "Passed over, since torchrun has not started this process: RANK, LOCAL_RANK" in done.stdout
    ours, undisturbed = only_run(tmp_path / "outputs"), only_run(finished / "outputs")
    assert {path.name for path in ours.iterdir()} >= {"metrics.json", "train.log", "backbone.safetensors"}
    assert scalars(ours)["train/loss"] == scalars(undisturbed)["train/loss"]
    assert scalars(ours)["val/knn_top1"] == scalars(undisturbed)["val/knn_top1"]


@pytest.mark.parametrize("name", COUNTS)
def test_several_that_another_program_has_started_are_refused(empty_shell, name):
    empty_shell.setenv(name, "1")
    settle()
    empty_shell.setenv(name, "2")
    with pytest.raises(InputError, match=f"has started 2 processes \\({name}\\)"):
        settle()


def test_what_torchrun_says_to_its_processes_stays(empty_shell):
    for name in TORCHRUN:
        assert not started_by_torchrun()
        empty_shell.setenv(name, "1")
    assert started_by_torchrun()
    empty_shell.setenv("SLURM_STEP_NUM_TASKS", "2")  # srun starts one torchrun on each of two machines
    before = dict(os.environ)
    settle()
    assert dict(os.environ) == before


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_no_argument_of_the_trainer_comes_from_the_environment(monkeypatch, argument):
    """Held against Lightning's own list of them, so that a new one is refused, too."""
    trainer = {"accelerator": "auto", "max_epochs": 2}
    check_trainer_settings(trainer, epochs=2)
    name = f"PL_TRAINER_{argument.upper()}"
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        InputError, match=f"{name}=1 in the environment would change the run.*unset it, and \\w+"
    ) as told:
        check_trainer_settings(trainer, epochs=2)
    assert f"trainer.{argument}=" in str(told.value) or INSTEAD[argument] in str(told.value)


@pytest.mark.parametrize("argument", INSTEAD)
def test_arguments_that_would_make_it_another_run_are_refused(argument):
    assert argument in ARGUMENTS
    with pytest.raises(InputError, match=re.escape(f"trainer.{argument}=1 is not usable; {INSTEAD[argument]}")):
        check_trainer_settings({"max_epochs": 2} | {argument: 1}, epochs=2)


@pytest.mark.slow
def test_configurations_are_those_of_the_command(run: Run, monkeypatch):
    shown = run("train.py", "--cfg", "job").stdout
    for name in OTHER_MODULE:
        monkeypatch.setenv(name, "json.tool")
    assert run("train.py", "--cfg", "job").stdout == shown


def test_the_command_refuses_them_in_one_line(run: Run, monkeypatch):
    done = run("train.py", *TINY_RUN, "+trainer.max_time=00:00:00:01", check=False, fresh=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: trainer.max_time=00:00:00:01 is not usable; use a signal")
    monkeypatch.setenv("PL_TRAINER_GRADIENT_CLIP_VAL", "1e-9")
    done = run("train.py", *TINY_RUN, check=False, fresh=True)
    assert done.returncode == 1
    assert "unset it, and use +trainer.gradient_clip_val=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_decides_how_numbers_are_computed_stands_beside_them(finished):
    run_dir = only_run(finished / "outputs")
    for file in ("metrics.json", "linear_eval.json"):
        environment = json.loads((run_dir / file).read_text(encoding="utf-8"))["environment"]
        assert environment["OMP_NUM_THREADS"] == "1"
        assert environment["CUDA_VISIBLE_DEVICES"] == ""
        assert not {"HOME", "PATH"} & environment.keys()
    assert arithmetic({"ONEDNN_MAX_CPU_ISA": "AVX2", "HOME": "/"}) == {"ONEDNN_MAX_CPU_ISA": "AVX2"}
