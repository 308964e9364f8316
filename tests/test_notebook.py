"""The notebook of the docs runs as it stands."""

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY, environment

NOTEBOOK = REPOSITORY / "docs" / "first_look.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path):
    """A cell that raises ends it; what a command said is read here, since a command that fails does not.

    And the quickstart, of which it trains two epochs, learns.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment() | {"PATH": path})
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "linear top-1" in said
    assert float(said.rpartition("largest difference: ")[2]) < 1e-5
    (metrics,) = (json.loads(file.read_text()) for file in tmp_path.glob("first_look/*/metrics.json"))
    assert metrics["val/knn_top1"] > metrics["val/knn_top1_untrained"] + 5


def test_its_outputs_are_there_and_name_no_machine():
    """They are what the site shows."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if "/tmp/" in json.dumps(output) or "/home/" in json.dumps(output)]
