"""What commands print and write: whoever reads it, and whatever the locale."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests.conftest import REPOSITORY, TINY_RUN, Run, command, environment, image_bytes, only_run, write_folder
from tests.test_configs import run_dir as run_directory

# No UTF-8 anywhere: neither by the locale nor by Python's own means against such a one.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_output_that_nobody_reads_is_no_error(finished, tmp_path):
    """Both of the command's streams are closed after its first line, as `2>&1 | head -1` does."""
    run_dir = shutil.copytree(only_run(finished / "outputs"), tmp_path / "run")
    (run_dir / "linear_eval.json").unlink()
    shutil.rmtree(run_dir / "features")
    arguments = command("linear_eval.py", f"run={run_dir}")
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=240) == 0
    ours, theirs = ((path / "linear_eval.json") for path in (run_dir, only_run(finished / "outputs")))
    assert json.loads(ours.read_text())["top1"] == json.loads(theirs.read_text())["top1"]


@pytest.mark.slow
def test_names_are_utf8_whatever_the_locale(run: Run, tmp_path, monkeypatch):
    """The run has the name that it has in a UTF-8 locale, and its files can be read there."""
    random = np.random.default_rng(0)
    names = [f"{'ab'[i % 2]}/{i}.png" for i in range(40)]
    files = {name: image_bytes(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for name in names}
    write_folder(tmp_path / "Bücher", files)
    images = ("data=image_folder", 'data.root="Bücher"', "data.size=16")
    overrides = (*images, *TINY_RUN[4:], "epochs=1", 'output_root="für später"')
    expected = tmp_path / run_directory(*overrides)
    for name, value in ASCII.items():
        monkeypatch.setenv(name, value)
    done = run("train.py", *overrides, fresh=True)
    assert f"Judge it with: python linear_eval.py 'run=\"{expected}\"'" in done.stdout
    assert yaml.safe_load((expected / "config.yaml").read_text(encoding="utf-8"))["data"]["root"] == str(
        tmp_path / "Bücher"
    )
    assert "Bücher: 36 training images" in (expected / "train.log").read_text(encoding="utf-8")
    report = [sys.executable, "-m", "simclr.report", str(expected.parent)]
    done = subprocess.run(report, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert "für später" in done.stdout


def test_what_hydra_cannot_read_is_said_with_the_quotes_that_it_needs(run: Run):
    done = run("train.py", "data=image_folder", "data.root=Bücher", check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("""write it like this: 'data.root="Bücher"'\n""")
