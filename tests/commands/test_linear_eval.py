"""linear_eval.py as users run it."""

import json
from pathlib import Path

import pytest
import torch

from simclr.errors import InputError
from simclr.runs.assemble import own_part, reassemble
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from tests.conftest import Run, only_run, scalars


def test_linear_evaluation_reports_and_records(finished):
    run_dir = only_run(finished / "outputs")
    result = json.loads((run_dir / "linear_eval.json").read_text())
    assert {"top1", "top5", "top1_low", "top1_high", "knn_top1", "l2", "protocol", "train_images"} <= result.keys()
    assert 0 <= result["top1_low"] <= result["top1"] <= result["top1_high"] <= 100
    assert (result["train_images"], result["val_images"]) == (64, 20)
    assert Path(result["checkpoint"]).name == "last.ckpt"
    # The k-NN of the command is that of training: same weights, same images.
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert result["knn_top1"] == pytest.approx(metrics["val/knn_top1"])
    assert scalars(run_dir / "evaluation")["linear_eval/top1"] == [(8, pytest.approx(result["top1"]))]
    text = (finished / "linear_eval.py.txt").read_text()
    assert f"linear top-1 {result['top1']:.2f} %" in text


@pytest.mark.slow
def test_a_bare_checkpoint_and_the_untrained_encoder_are_judged_too(finished, tmp_path, run):
    run_dir = only_run(finished / "outputs")
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes(last_checkpoint(run_dir).read_bytes())
    run("linear_eval.py", f"ckpt={alone}")
    bare, full = (
        json.loads(path.read_text()) for path in (tmp_path / "linear_eval_alone.json", run_dir / "linear_eval.json")
    )
    assert bare["top1"] == full["top1"]
    run("linear_eval.py", f"ckpt={alone}", "untrained=true")
    untrained = json.loads((tmp_path / "linear_eval_alone_untrained.json").read_text())
    metrics = json.loads((run_dir / "metrics.json").read_text())
    # Rebuilt from the seed, the untrained encoder is the very one that the run started with.
    assert untrained["knn_top1"] == pytest.approx(metrics["val/knn_top1_untrained"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either run=RUN_DIR or ckpt=PATH"),
        pytest.param(("run=nowhere",), "there is no checkpoint nowhere/checkpoints/last.ckpt", marks=pytest.mark.slow),
        pytest.param(("ckpt=damaged.ckpt",), "damaged.ckpt cannot be read as a checkpoint", marks=pytest.mark.slow),
    ],
)
def test_evaluation_of_nothing(run: Run, tmp_path, arguments, said):
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    done = run("linear_eval.py", *arguments, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


@pytest.mark.parametrize(
    "planted",
    [
        {"_target_": "os.mkdir", "path": "planted"},
        {"_target_": "simclr.models.backbone.resnet18_encoder", "stem": {"_target_": "os.mkdir", "path": "planted"}},
        {"_target_": "simclr.models.batch_norm.dist.os.mkdir", "path": "planted"},
    ],
)
def test_a_checkpoint_cannot_name_what_is_run(finished, tmp_path, planted):
    checkpoint = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))
    assert reassemble(checkpoint)["backbone"].num_features == 512
    checkpoint["config"]["backbone"] = planted
    with pytest.raises(InputError, match=rf"the checkpoint's backbone is {planted['_target_']}"):
        reassemble(checkpoint)


@pytest.mark.parametrize(
    ("part", "planted"),
    [
        ("backbone", {"stem": ({"_target_": "numpy.load", "_args_": ["evil.npy"], "allow_pickle": True},)}),
        ("backbone", {"stem": [{"_target_": "pathlib.Path"}]}),
        ("backbone", {"_partial_": True}),
        ("backbone", {"_args_": ["small"]}),
        ("backbone", None),
        ("head", {"hidden_features": {"_target_": "builtins.int"}}),
    ],
)
def test_nothing_is_built_but_the_part_itself(finished, part, planted):
    checkpoint = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))
    config = checkpoint["config"]
    config[part] = None if planted is None else config[part] | planted
    with pytest.raises(InputError, match=rf"the checkpoint's {part} is .*, which is not a part of this project"):
        reassemble(checkpoint, ["backbone", part])


def test_what_refers_to_something_else_stays_text(finished, monkeypatch):
    monkeypatch.setenv("SECRET", "told")
    config = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))["config"]
    for text in ("${oc.env:SECRET}", "${oc.create:{_target_: os.getcwd}}", r"a\${b}"):
        data = {"_target_": "simclr.data.folder.ImageFolder", "root": text}
        assert own_part(config | {"data": data}, "data").root == text


@pytest.mark.parametrize("target", ["simclr.data.files.download.download", "simclr.data.store.digests_of", "os.getcwd"])
def test_a_source_is_a_class_of_its_room(finished, target):
    config = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))["config"]
    with pytest.raises(InputError, match=f"the checkpoint's data is {target}"):
        own_part(config | {"data": {"_target_": target}}, "data")


@pytest.mark.parametrize("change", [{"seed": None}, {"seed": "7"}, {"method": None}, {"method": "simclr"}])
def test_a_configuration_of_wrong_types_is_refused_or_not_needed(finished, change):
    checkpoint = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))
    checkpoint["config"] |= change
    if "seed" in change:
        with pytest.raises(InputError, match="has no seed"):
            reassemble(checkpoint)
    else:
        assert reassemble(checkpoint, ["backbone", "head"]).keys() == {"backbone", "head"}  # a method may be anybody's


@pytest.mark.slow
def test_a_checkpoint_that_names_other_code_ends_the_command(finished, run, tmp_path):
    checkpoint = load_checkpoint(last_checkpoint(only_run(finished / "outputs")))
    checkpoint["config"]["backbone"] = {"_target_": "os.mkdir", "path": str(tmp_path / "planted")}
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    done = run("linear_eval.py", "ckpt=evil.ckpt", check=False)
    assert done.returncode == 1
    assert "the checkpoint's backbone is os.mkdir" in done.stderr
    assert not (tmp_path / "planted").exists()
