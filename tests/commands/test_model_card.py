"""The model card that goes with an exported encoder: its numbers are those of the files, and nobody's text is lost."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from simclr.commands.export import export
from simclr.commands.model_card import UNKNOWN_LICENCE, model_card
from simclr.data.published import PublishedSet
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.configs import CONFIGS
from tests.conftest import only_run


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    return shutil.copytree(only_run(finished / "outputs"), tmp_path / "a run")


def exported(run_dir: Path, *overrides: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        export(compose("export", [f"run='{run_dir}'", *overrides]))


def test_it_says_what_the_runs_own_files_say(run_dir):
    before = {"top1": 11.5, "top1_low": 3.25, "top1_high": 30.5, "val_images": 20, "protocol": {"linear": "as new"}}
    before |= {"part": "backbone", "layer": "features", "checkpoint": None}
    (run_dir / "linear_eval_untrained.json").write_text(json.dumps(before))
    of_the_head = json.loads((run_dir / "linear_eval.json").read_text()) | {"layer": "head"}
    (run_dir / "linear_eval_head.json").write_text(json.dumps(of_the_head))
    exported(run_dir)
    card = (run_dir / "backbone.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-feature-extraction"
    judged = json.loads((run_dir / "linear_eval.json").read_text())
    interval = f"{judged['top1_low']:.4g} to {judged['top1_high']:.4g} %"
    assert f"| linear_eval | top1 | {judged['top1']:.4g} % | {interval} | 20 |" in card
    assert "| linear_eval_untrained | top1 | 11.5 % | 3.25 to 30.5 % | 20 |" in card
    assert "linear_eval_head" not in card
    assert judged["protocol"]["linear"] in card
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for value in (metrics["images_seen"], "SimCLR", "resnet18", "procedural images", "16 × 16 pixels"):
        assert str(value) in card
    assert str(run_dir) not in card  # whoever gets it has other folders


def test_what_it_says_of_loading_loads(run_dir, monkeypatch):
    from torchvision.models import resnet18

    exported(run_dir)
    (program,) = re.findall(r"```python\n(.*?)```", (run_dir / "backbone.md").read_text(), re.DOTALL)
    monkeypatch.chdir(run_dir)
    names: dict = {"resnet18": resnet18}
    exec(program.replace("network = ...", "network = resnet18()"), names)
    assert {key.split(".")[0] for key in names["missing"]} == {"fc"}
    assert not names["unexpected"]


def test_a_card_of_somebodys_own_is_left_alone_and_ours_is_written_anew(run_dir, tmp_path, caplog):
    mine = tmp_path / "encoder.md"
    mine.write_text("my own words")
    with caplog.at_level("INFO"):
        exported(run_dir, f"output='{tmp_path}/encoder.safetensors'")
    assert mine.read_text() == "my own words"
    assert "encoder.md is not this command's, so it is left as it is" in caplog.text
    exported(run_dir)
    for judged in run_dir.glob("*_eval*.json"):
        judged.unlink()
    exported(run_dir)
    assert "Nothing yet" in (run_dir / "backbone.md").read_text()


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml")))
def test_every_published_set_states_its_terms_and_your_own_images_are_yours_to_state(run_dir, choice):
    config = load_checkpoint(last_checkpoint(run_dir))["config"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config["data"] = {"_target_": compose("train", [f"data={choice}"]).data._target_}
    about = {"run": "r", "image_size": 16, "part": "backbone", "checkpoint": "last.ckpt", "step": 8, "mean": None}
    card = model_card(about, config, run_dir, "")
    assert (UNKNOWN_LICENCE in card) == (choice in ("image_folder", "image_text", "parquet"))
    assert all(hasattr(source, "licence") for source in PublishedSet.__subclasses__())


def test_others_classes_are_named_and_never_imported(run_dir):
    config = load_checkpoint(last_checkpoint(run_dir))["config"]
    config["method"] |= {"_target_": "antigravity.Method"}
    config["data"] = {"_target_": "antigravity.Images"}
    about = {"run": "r", "image_size": 16, "part": "backbone", "checkpoint": "last.ckpt", "step": 8, "mean": None}
    card = model_card(about, config, run_dir, "")
    assert "**Method.** antigravity.Method" in card
    assert UNKNOWN_LICENCE in card
