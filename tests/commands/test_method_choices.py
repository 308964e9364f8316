"""What a choice of method asks of the other choices, said before any work is done."""

import pytest

from simclr.runs.compose import compose_config
from simclr.runs.identity import as_dict, identity
from tests.conftest import TINY_RUN, Run, write_folder
from tests.data.test_own_images import files


def test_a_temperature_that_nothing_reads_is_refused(run: Run):
    done = run("train.py", *TINY_RUN, "method=byol", "temperature=0.2", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: temperature=0.2 is not usable: method=byol has no temperature; leave it out\n"


def test_a_temperature_that_nothing_reads_names_no_run():
    byol, other = (identity(as_dict(compose_config("method=byol", f"temperature={t}"))) for t in (0.07, 0.2))
    assert byol == other
    simclr, warmer = (identity(as_dict(compose_config(f"temperature={t}"))) for t in (0.07, 0.2))
    assert simclr != warmer


@pytest.mark.parametrize("method", ["supcon", "supervised"])
def test_a_method_that_needs_labels_is_refused_where_there_are_none(run: Run, tmp_path, method):
    write_folder(tmp_path / "images", files(*(f"{i}.png" for i in range(40))))
    images = ("data=image_folder", f"data.root={tmp_path / 'images'}", "data.size=16")
    done = run("train.py", *images, *TINY_RUN[4:], f"method={method}", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the method learns from labels, which these images lack; choose others")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "outputs").glob("*/checkpoints"))
