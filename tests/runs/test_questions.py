"""Results that answer one question compare; the others are left out of a report, which says so."""

import json
import shutil

from omegaconf import OmegaConf

from simclr.report.runs import read_sweep
from simclr.runs.compose import compose_config
from simclr.runs.questions import incomparable, result_name

OWN = {"val_images_key": "own"}


def result(limit: int | None = None, key: str = "own") -> dict:
    return {"top1": 20.0, "limit_images": limit, "val_images_key": key, "protocol": {"linear": "frozen features"}}


def test_the_plain_name_is_the_whole_answer_on_the_runs_own_images():
    usual = {"other_data": None, "limit_images": None, "part": "backbone"}
    usual |= {"layer": "features", "checkpoint": "", "trained": True}
    pets = {"choice": "image_folder", "root": "/a/pets", "key": {"train": "1", "val": "2"}}
    changed = (
        {"other_data": pets},
        {"other_data": pets | {"key": {"train": "1", "val": "3"}}},
        {"other_data": pets | {"root": None}},
        {"limit_images": 25},
        {"layer": "head"},
        {"part": "target_backbone"},
        {"checkpoint": "epoch-010"},
        {"trained": False},
    )
    names = [result_name("linear_eval", **(usual | change)) for change in ({}, *changed)]
    assert names[0] == "linear_eval"
    assert len(set(names)) == len(names)
    assert all(name.startswith("linear_eval_") for name in names[1:])


def test_partial_answers_and_those_on_other_images_do_not_compare_with_whole_ones():
    results = {"a": result(), "b": result(), "c": result(limit=25), "d": result(key="another")}
    found = incomparable(results, dict.fromkeys(results, OWN))
    assert set(found) == {"c", "d"}
    assert found["c"] == "limit_images=25, where most have None"
    assert found["d"] == "images of key another, where most were judged on its own"


def test_of_two_the_whole_answer_is_the_one_that_counts():
    results = {"a": result(limit=25), "b": result()}
    assert set(incomparable(results, dict.fromkeys(results, OWN))) == {"a"}


def test_each_runs_own_images_are_one_question_where_the_data_set_is_what_varies():
    results = {"a": result(key="pets"), "b": result(key="birds")}
    metrics = {"a": {"val_images_key": "pets"}, "b": {"val_images_key": "birds"}}
    assert incomparable(results, metrics) == {}


def test_a_report_takes_no_number_from_what_does_not_compare(tmp_path):
    config = compose_config("data=shapes")
    for seed, found in ((1, result()), (2, result()), (3, result(limit=25))):
        run_dir = tmp_path / f"run{seed}"
        run_dir.mkdir()
        OmegaConf.save(OmegaConf.merge(config, {"seed": seed}), run_dir / "config.yaml")
        (run_dir / "metrics.json").write_text(json.dumps(OWN), "utf-8")
        (run_dir / "linear_eval.json").write_text(json.dumps(found), "utf-8")
    sweep = read_sweep(tmp_path)
    assert [set(files) - {"metrics"} for files in sweep.files.values()] == [{"linear_eval"}, {"linear_eval"}, set()]
    assert sweep.left_out == ["run3/linear_eval.json (limit_images=25, where most have None)"]
    shutil.rmtree(tmp_path / "run3")
    assert read_sweep(tmp_path).left_out == []
