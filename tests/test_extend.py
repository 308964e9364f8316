"""The parts that docs/extend.md shows, written down as it says and used by its own commands."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, command, environment, only_run


@pytest.fixture
def mine(tmp_path: Path) -> list[str]:
    """Everything that the page says is in mine/, and its commands."""
    text = (REPOSITORY / "docs" / "extend.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:python|yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        path = tmp_path / block.partition("\n")[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(block)
    first = re.search(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert first is not None
    return first[1].splitlines()


@pytest.mark.slow
def test_a_head_a_method_a_data_set_and_a_protocol_of_ones_own(mine, tmp_path):
    variable, train, judge = mine
    assert variable == "export PYTHONPATH=mine"

    def run(line: str, *overrides: str) -> str:
        program, *arguments = shlex.split(line)[1:]
        own = environment() | {"PYTHONPATH": f"{REPOSITORY}:mine"}
        done = subprocess.run(
            command(program, *arguments, *overrides), cwd=tmp_path, env=own, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = run(train, "batch_size=64", "precision=32")
    assert "learns  AlignAndSpread of 256 images, 2 views of 16 pixels" in said
    run_dir = only_run(tmp_path / "outputs")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {"train/loss", "train/alignment", "val/knn_top1"} <= metrics.keys()
    assert run_dir.name.startswith("align-dim-cosine-stripes-seed0-")
    assert "top-1" in run(judge.replace("run=RUN", f"run={run_dir}"))
    (found,) = (json.loads(path.read_text()) for path in run_dir.glob("centroids_eval*.json"))
    assert found["top1"] > 30
    assert found["protocol"] == {"centroids": "nearest of 4 class means by Euclidean distance"}
