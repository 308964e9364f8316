"""Where results go when the run's own directory is read-only: /proc is, for root too."""

import json
import os
from pathlib import Path

import pytest

from simclr.commands.judge import judge
from simclr.errors import InputError
from simclr.runs.checkpoint import last_checkpoint
from simclr.runs.compose import compose_config
from simclr.runs.place import results_place
from tests.conftest import Run, only_run

READ_ONLY = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not READ_ONLY.exists(), reason="no read-only folder known on this system")


def test_beside_the_run_where_that_can_be_written(tmp_path, caplog):
    assert results_place(tmp_path, None) == tmp_path
    assert results_place(READ_ONLY, str(tmp_path / "new" / "deep")) == tmp_path / "new" / "deep"
    assert not caplog.records


def test_else_in_the_working_directory_and_else_in_the_users_cache(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, other = results_place(READ_ONLY, None), results_place(Path("/proc/self/task"), None)
    assert first.parent == other.parent == Path("results")
    assert first != other
    assert str(first) in caplog.text
    assert "output=FOLDER" in caplog.text
    (tmp_path / "file").write_text("")
    monkeypatch.chdir("/proc/self")
    assert results_place(READ_ONLY, None).parent == tmp_path / "cache" / "simclr-lab" / "results"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="say where results are to go with output=FOLDER"):
        results_place(READ_ONLY, None)


def test_an_output_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output=.*file/x cannot be written to"):
        results_place(tmp_path, str(tmp_path / "file" / "x"))


def test_a_checkpoint_in_a_read_only_folder_is_judged(finished, tmp_path, monkeypatch):
    run_dir = only_run(finished / "outputs")
    monkeypatch.chdir(tmp_path)
    with last_checkpoint(run_dir).open("rb") as file:
        path = READ_ONLY / str(file.fileno())
        top1 = judge(compose_config(f"ckpt={path}", command="linear_eval"))
    (written,) = (tmp_path / "results").glob("*/linear_eval*.json")
    assert json.loads(written.read_text())["top1"] == top1
    assert json.loads((run_dir / "linear_eval.json").read_text())["top1"] == top1
    assert "features" in os.listdir(written.parent)


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "linear_eval.py"])
def test_a_sweep_into_a_place_that_cannot_be_written_ends_with_one_line(run: Run, tmp_path, script):
    (tmp_path / "multirun").write_text("a file in the way")
    done = run(script, "-m", "run=x" if script == "linear_eval.py" else "seed=1,2", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write into multirun/")
    assert done.stderr.count("\n") == 1
