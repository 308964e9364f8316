"""Which numbers of the runs are outcomes."""

import json
from copy import deepcopy

from simclr.commands.report import command
from tests.report.sweeps import study, write_run


def test_other_evaluations_are_outcomes_where_all_runs_have_them(tmp_path, cells):
    for seed in range(2):
        run = write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed)
        for name in ("linear_eval_head", "linear_eval_untrained", "linear_eval_epoch-005"):
            (run / f"{name}.json").write_text(json.dumps({"top1": 30.0 + seed, "l2": 0.1}))
        (run / "localize_eval.json").write_text(json.dumps({"mean_iou": 0.4, "mean_iou_low": 0.3, "mean_iou_high": 1}))
    (run / "transfer_eval_cars.json").write_text(json.dumps({"top1": 70.0}))
    found = study(tmp_path)
    labels = [outcome.label for outcome in found.outcomes]
    assert labels[:3] == ["linear top-1", "linear top-5", "k-NN top-1"]
    assert labels[3:] == ["linear (head) top-1", "localize mean IoU", "training loss", "contrastive top-1"]
    assert [outcome.label for outcome in found.partial] == ["transfer (cars) top-1"]


def test_balanced_accuracy_is_an_outcome_where_it_is_not_top1_once_more(tmp_path, cells):
    for seed in range(3):
        run = write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed)
        result = json.loads((run / "linear_eval.json").read_text())
        (run / "linear_eval.json").write_text(json.dumps(result | {"balanced_top1": 40.0 + seed + 1e-6}))
        (run / "finetune_eval_labels-0.1.json").write_text(json.dumps({"top1": 30.0, "balanced_top1": 20.0}))
    labels = [outcome.label for outcome in study(tmp_path).outcomes]
    assert "linear balanced top-1" not in labels
    assert "finetune (labels-0.1) balanced top-1" in labels
    (run / "linear_eval.json").write_text(json.dumps(result | {"balanced_top1": 25.0}))
    assert "linear balanced top-1" in [outcome.label for outcome in study(tmp_path).outcomes]


def test_accuracy_on_the_way_is_told_in_the_order_of_epochs(tmp_path, cells):
    run = write_run(tmp_path / "only", cells["modified", "slim"], 0, 40.0, {"epochs": 20})
    for name, top1 in (("untrained", 6.5), ("epoch-010", 31.5), ("epoch-005", 22.5)):
        (run / f"linear_eval_{name}.json").write_text(json.dumps({"top1": top1, "top1_low": 1.0, "top1_high": 90.0}))
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    section = report.partition("## Linear top-1 while training went on")[2].partition("\n## ")[0]
    (heads, _, values) = (line for line in section.splitlines() if line.startswith("|"))
    assert heads.strip("| ").split(" | ")[1:] == ["untrained", "epoch 5", "epoch 10", "epoch 20"]
    assert [float(value) for value in values.strip("| ").split(" | ")[1:]] == [6.5, 22.5, 31.5, 40.0]
    assert (tmp_path / "report" / "on_the_way.svg").exists()


def test_a_number_that_is_null_is_one_that_the_run_lacks(tmp_path, cells):
    write_run(tmp_path / "a", cells["modified", "slim"], 0, 40.0)
    nulls = {"train/loss": None, "train/top1": 60.0, "images_per_second": None, "not_finite": {"train/loss": "nan"}}
    write_run(tmp_path / "b", cells["modified", "slim"], 1, 41.0, nulls)
    assert command([str(tmp_path)]) == 0
    assert "training loss (1 of 2 runs)" in (tmp_path / "report" / "report.md").read_text()


def test_a_method_brings_its_own_scalars(tmp_path, cells):
    described = {
        "train/loss": {"words": "prediction gap", "unit": "", "higher_is_better": False, "short": "gap"},
        "train/hits": {"words": "hits", "unit": "%", "higher_is_better": True, "short": "hits"},
        "train/norm": {"words": "norm", "unit": "", "higher_is_better": None, "short": None},
    }
    for seed in range(3):
        metrics = {"train/hits": 10.0 + seed, "train/norm": 1.0 + seed, "scalars": described}
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 - seed, metrics)
    found = study(tmp_path)
    assert [(o.label, o.unit) for o in found.outcomes][-2:] == [("prediction gap", ""), ("hits", "points")]
    assert dict(found.rankings[["label", "smaller_is_better"]].values) == {"prediction gap": True, "hits": False}


def test_the_losses_of_two_methods_do_not_compare(tmp_path, cells):
    other = deepcopy(cells["modified", "slim"])
    other["method"]["_target_"] = "mine.Other"
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", cells["modified", "slim"], seed, 40.0 + seed)
        write_run(tmp_path / f"b{seed}", other, seed, 42.0)
    found = study(tmp_path)
    assert [factor.name for factor in found.design.factors] == ["method._target_"]
    assert found.differently == {"train/": ["method._target_"]}
    assert {outcome.file for outcome in found.outcomes} == {"linear_eval"}
    rows = [f"{run.name},train/loss,{step},2.0\n" for run in tmp_path.iterdir() for step in range(3)]
    (tmp_path / "curves.csv").write_text("run,tag,step,value\n" + "".join(rows), encoding="utf-8")
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "## Training curves" not in report  # there are some, and they are not drawn into one figure
    assert (tmp_path / "report" / "curves.csv").exists()
