"""The report of a sweep: planted effects come back, and nothing is claimed that the runs do not show."""

import csv
import json
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from simclr.commands.report import command
from simclr.errors import InputError
from simclr.report.effects import all_effects, holm, rank_correlation, t_interval
from simclr.report.factors import Cell, Factor
from simclr.report.study import Study, study_sweep
from simclr.report.wording import effect_sentence
from simclr.runs.compose import CONFIGS, compose_config
from simclr.runs.identity import as_dict
from tests.conftest import REPOSITORY, environment

AUGMENTATION = Factor("augmentation", ("baseline", "modified"), True)
HEAD = Factor("head", ("baseline", "slim"), True)


@pytest.fixture(scope="module")
def cells() -> dict[tuple[str, str], dict]:
    """What train.py would write as config.yaml in each cell of the study, by Hydra itself."""
    found = {}
    for augmentation in ("baseline", "modified"):
        for head in ("baseline", "slim"):
            found[augmentation, head] = as_dict(compose_config(f"augmentation={augmentation}", f"head={head}"))
    return found


def write_run(folder: Path, config: dict, seed: int, top1: float, metrics: dict | None = None, **changes) -> Path:
    """A finished run's directory as train.py and linear_eval.py leave it. changes: dotted keys with __ for dots."""
    config = deepcopy(config) | {"seed": seed, "name": folder.name, "output_root": str(folder.parent)}
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    known = {"train/loss": 2.0, "train/top1": 60.0, "wall_seconds": 600.0, "git_commit": "a" * 40, "device": "cpu: X"}
    (folder / "metrics.json").write_text(json.dumps(known | {"precision": "32"} | (metrics or {})))
    linear = {"top1": top1, "top5": top1 + 20, "top1_low": top1 - 1, "top1_high": top1 + 1, "knn_top1": top1 - 5}
    (folder / "linear_eval.json").write_text(json.dumps(linear | {"protocol": {"linear": "frozen features"}}))
    return folder


def write_study(folder: Path, cells: dict, seeds: range, truth: dict, noise: float = 0.1, seed_effect: float = 5.0):
    """A 2×2 sweep. truth: augmentation, head, both -> points added; noise: standard deviation of each run."""
    random = np.random.default_rng(1)
    luck = {seed: random.normal(0, seed_effect) for seed in seeds}
    for (augmentation, head), config in cells.items():
        modified, slim = augmentation == "modified", head == "slim"
        for seed in seeds:
            top1 = 40 + luck[seed] + random.normal(0, noise)
            top1 += truth["augmentation"] * modified + truth["head"] * slim + truth["both"] * (modified and slim)
            write_run(folder / f"simclr-{augmentation}-{head}-seed{seed}", config, seed, top1)


def study(folder: Path) -> Study:
    return study_sweep(folder, CONFIGS, {})


def accuracies(folder: Path) -> dict[str, float]:
    return {path.parent.name: json.loads(path.read_text())["top1"] for path in folder.glob("*/linear_eval.json")}


def test_a_planted_effect_and_interaction_are_found(tmp_path, cells):
    """With seeds that differ by far more than the effects: only pairing shows them. Numbers are scipy's."""
    write_study(tmp_path, cells, range(5), {"augmentation": 2.0, "head": 0.0, "both": -1.5})
    found = study(tmp_path)
    assert [(f.name, f.levels) for f in found.design.factors] == [
        ("augmentation", ("baseline", "modified")),
        ("head", ("baseline", "slim")),
    ]
    top1 = accuracies(tmp_path)
    a, b, c, d = (
        np.array([top1[f"simclr-{cell}-seed{seed}"] for seed in range(5)])
        for cell in ("baseline-baseline", "baseline-slim", "modified-baseline", "modified-slim")
    )
    sides = [((c + d) / 2, (a + b) / 2), ((b + d) / 2, (a + c) / 2), (d - c, b - a)]
    planted = [2.0 - 0.75, -0.75, -1.5]
    for tested, (one, other), truth in zip(found.primary_effects, sides, planted, strict=True):
        oracle = stats.ttest_rel(one, other)
        expected = oracle.confidence_interval(0.95)
        estimate = tested.effect.estimate
        assert estimate.mean == pytest.approx((one - other).mean())
        assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))
        assert estimate.p == pytest.approx(oracle.pvalue)
        assert estimate.low < truth < estimate.high
        assert estimate.high - estimate.low < 1  # the seeds' own spread of 5 points is not in it
    assert tested.effect.kind == "interaction"


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 1,000 sweeps of 4 seeds, in which runs of one seed share their luck."""
    random = np.random.default_rng(0)
    inside = np.zeros(3)
    for _ in range(1000):
        luck = random.normal(0, 3, 4)
        values = {
            (a, h): {s: luck[s] + 0.5 * (a == "modified") + random.normal(0, 0.4) for s in range(4)}
            for a in AUGMENTATION.levels
            for h in HEAD.levels
        }
        for i, (effect, truth) in enumerate(
            zip(all_effects(values, [AUGMENTATION, HEAD]), (0.5, 0.0, 0.0), strict=True)
        ):
            inside[i] += effect.estimate.low <= truth <= effect.estimate.high
    # 95 % give or take four standard errors of a share among 1,000
    assert (np.abs(inside / 1000 - 0.95) < 4 * (0.95 * 0.05 / 1000) ** 0.5).all(), inside / 1000


def test_adjusting_for_the_number_of_effects_bounds_false_findings():
    """Where nothing differs, one of three effects looks real in a sweep of seven; adjusted, in one of twenty."""
    random = np.random.default_rng(2)
    alone = adjusted = 0
    for _ in range(1000):
        p = [t_interval(random.normal(size=5).tolist()).p for _ in range(3)]
        alone += min(p) < 0.05
        adjusted += min(holm(p)) < 0.05
    assert alone > 110
    assert adjusted < 75
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # Holm 1979, by hand


def test_no_effect_is_claimed_where_there_is_none(tmp_path, cells):
    write_study(tmp_path, cells, range(5), {"augmentation": 0, "head": 0, "both": 0}, noise=0.5)
    assert command([str(tmp_path)]) == 0
    summary = (tmp_path / "report" / "report.md").read_text().split("## The cells")[0]
    assert summary.count("so no effect is claimed") == 3
    assert "increase" not in summary
    assert "decrease" not in summary
    with (tmp_path / "report" / "effects.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == "primary"]
    low, high = float(rows[0]["low"]), float(rows[0]["high"])
    sentence = next(
        line for line in summary.splitlines() if line.startswith("- augmentation modified against baseline")
    )
    shown = [float(n.replace("−", "-")) for n in re.findall(r"([+−]?\d+\.\d+) points", sentence)]
    assert shown[1:] == pytest.approx([low, high], abs=0.005)  # what is excluded lies beyond the interval


def test_the_words_follow_the_interval():
    """One sweep of a clear effect, one whose interval alone would mislead, one of a single seed."""

    def sentence(differences: list[float], adjusted: float | None, tested: int) -> str:
        values: dict[Cell, dict[int, float]] = {
            ("baseline",): dict.fromkeys(range(9), 0.0),
            ("modified",): dict(enumerate(differences)),
        }
        (effect,) = all_effects(values, [AUGMENTATION])
        return effect_sentence(effect, "linear top-1", "points", effect.p if adjusted is None else adjusted, tested)

    clear = sentence([1.0, 1.1, 1.2], None, 1)
    assert clear.startswith(
        "augmentation modified against baseline changes linear top-1 by +1.10 points (95 % interval"
    )
    assert "3 seeds): the interval excludes 0: an increase." in clear
    weak = sentence([0.1, 0.6, 0.4, 0.3], 0.08, 3)
    assert "among 3 effects tested it does not stand out (Holm-adjusted p = 0.08), so no effect is claimed" in weak
    assert "nothing can be concluded from one seed" in sentence([3.0], None, 1)
    assert "all equal" in sentence([0.5, 0.5], None, 1)


def test_one_seed_concludes_nothing(tmp_path, cells):
    write_study(tmp_path, cells, range(1), {"augmentation": 9, "head": 9, "both": 9})
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "**With one seed nothing can be concluded**" in report
    assert report.count(": nothing can be concluded from one seed") == 3
    assert all(t.effect.p is None for t in study(tmp_path).primary_effects)


def test_missing_cells_and_unfinished_runs_are_left_out_and_said(tmp_path, cells):
    write_study(tmp_path, cells, range(4), {"augmentation": 1, "head": 0, "both": 0})
    (tmp_path / "simclr-modified-slim-seed3" / "metrics.json").unlink()
    found = study(tmp_path)
    assert found.unfinished == ["simclr-modified-slim-seed3"]
    for tested in found.primary_effects:
        assert sorted(tested.effect.differences) == [0, 1, 2]
        assert tested.effect.left_out == {3: (("modified", "slim"),)}
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "Left out, not finished: simclr-modified-slim-seed3." in report
    assert "seed 3 lacks modified · slim" in report


def test_three_levels_of_a_number_are_compared_with_the_first(tmp_path, cells):
    """temperature also reaches method.temperature, which is no factor of its own."""
    for seed in range(3):
        for value, top1 in ((0.07, 40.0), (0.2, 43.0), (0.5, 41.0)):
            folder = tmp_path / f"t{value}-seed{seed}"
            top1 += seed + 0.1 * seed * value
            write_run(folder, cells["modified", "slim"], seed, top1, temperature=value, method__temperature=value)
    (factor,) = study(tmp_path).design.factors
    assert (factor.name, factor.levels) == ("temperature", ("0.07", "0.2", "0.5"))
    effects = [t.effect for t in study(tmp_path).primary_effects]
    assert [(e.levels, e.references) for e in effects] == [(("0.2",), ("0.07",)), (("0.5",), ("0.07",))]
    assert [e.estimate.mean for e in effects] == pytest.approx([3.013, 1.043])
    other = study_sweep(tmp_path, CONFIGS, {"temperature": "0.2"})
    assert [t.effect.levels for t in other.primary_effects] == [("0.07",), ("0.5",)]
    with pytest.raises(InputError, match=r"temperature=0.3: no run has it; there are 0.07, 0.2, 0.5"):
        study_sweep(tmp_path, CONFIGS, {"temperature": "0.3"})


def test_what_varies_together_is_one_factor(tmp_path, cells):
    """And levels that are no option of their group are called by key and value."""
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", cells["baseline", "baseline"], seed, 40.0)
        write_run(tmp_path / f"b{seed}", cells["modified", "slim"], seed, 41.0 + seed)
    (factor,) = study(tmp_path).design.factors
    assert (factor.name, factor.levels) == ("augmentation + head", ("baseline + baseline", "modified + slim"))
    write_run(tmp_path / "c", cells["modified", "slim"], 0, 42.0, head__hidden_features=64)
    assert [f.name for f in study(tmp_path).design.factors] == ["augmentation", "head.hidden_features"]
    assert study(tmp_path).design.label(("modified", "64")) == "modified · hidden_features=64"


def test_factors_do_not_depend_on_this_projects_options(tmp_path, cells):
    """Options of another checkout, with baseline not the first of them; a copied setting; one that follows from two."""
    configs = tmp_path / "configs"
    (configs / "head").mkdir(parents=True)
    (configs / "head" / "baseline.yaml").write_text("hidden_features: 512\n")
    (configs / "head" / "alternative.yaml").write_text("defaults: [baseline]\nhidden_features: 256\n")
    images = iter((100, 200, 300, 400))
    for head in ("baseline", "slim"):
        for t in (0.1, 0.2):
            changes = {"temperature": t, "method__temperature": t, "limit_images": next(images)}
            write_run(tmp_path / f"{head}-{t}", cells["modified", head], 0, 40.0, **changes)
    found = study_sweep(tmp_path, configs, {}).design
    assert {f.name: f.levels for f in found.factors} == {
        "temperature": ("0.1", "0.2"),
        "head": ("baseline", "alternative"),
    }
    assert found.derived == ("limit_images",)


def test_cells_are_called_by_names_that_stay_unambiguous(tmp_path, cells):
    """The seed of the images is not the run's, their size not that of the views; what varies together says what."""
    config = deepcopy(cells["modified", "slim"])
    config["data"] |= {"seed": 0}
    for seed, size in ((0, 32), (0, 64), (1, 32), (1, 64)):
        changes = {"data__seed": seed, "data__size": size, "optimizer__lr": size / 1000, "epochs": size // 2}
        write_run(tmp_path / f"{seed}-{size}", config, 5, 40.0, **changes)
    found = study(tmp_path).design
    assert [factor.name for factor in found.factors] == ["epochs + data.size + optimizer.lr", "data.seed"]
    assert [found.label(cell) for cell in found.ordered_cells()] == [
        "epochs=16 + data.size=32 + lr=0.032 · data.seed=0",
        "epochs=16 + data.size=32 + lr=0.032 · data.seed=1",
        "epochs=32 + data.size=64 + lr=0.064 · data.seed=0",
        "epochs=32 + data.size=64 + lr=0.064 · data.seed=1",
    ]


def test_what_measures_or_saves_a_run_is_no_factor(tmp_path, cells):
    """But numbers that were measured by other settings do not compare, and that is said."""
    writing = {"checkpoint_minutes": 1, "keep_every_n_epochs": None, "evaluate": ["knn"], "logger__name": "x"}
    watching = {"callbacks__progress__line_every_seconds": 5, "trainer__log_every_n_steps": 1}
    metrics = {"val/knn_top1": 30.0, "features/std": 0.5}
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", cells["baseline", "slim"], seed, 40.0 + seed, metrics)
        often = {"callbacks__online_knn__every_n_epochs": 1}
        write_run(tmp_path / f"b{seed}", cells["modified", "slim"], seed, 41.0, metrics, **writing, **watching, **often)
    found = study(tmp_path)
    assert [factor.name for factor in found.design.factors] == ["augmentation"]
    assert found.design.derived == ()
    assert not found.differently
    assert "features/std" in {ranked.metric.key for ranked in found.rankings}

    for seed in range(2):  # measured otherwise
        (tmp_path / f"a{seed}" / "linear_eval.json").unlink()
        (tmp_path / f"b{seed}" / "linear_eval.json").unlink()
        other = {"callbacks__online_knn__k": 5, "callbacks__label_free__images": 10}
        write_run(tmp_path / f"c{seed}", cells["modified", "baseline"], seed, 41.0, metrics, **other)
        (tmp_path / f"c{seed}" / "linear_eval.json").unlink()
    found = study(tmp_path)
    assert [factor.name for factor in found.design.factors] == ["augmentation", "head"]
    assert [outcome.column for outcome in found.outcomes] == ["train/loss", "train/top1"]
    assert not [ranked for ranked in found.rankings if ranked.metric.key == "features/std"]
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text().replace("\\", "")
    told = "by other settings: val/knn_top1 (callbacks.online_knn.k) and features/ (callbacks.label_free.images)."
    assert told in report


def test_a_callback_of_ones_own_may_be_a_factor(tmp_path, cells):
    config = deepcopy(cells["modified", "slim"])
    for decay in (0.9, 0.99):
        config["callbacks"]["average"] = {"_target_": "mine.Average", "decay": decay}
        write_run(tmp_path / f"{decay}", config, 0, 40.0)
    assert [factor.name for factor in study(tmp_path).design.factors] == ["callbacks.average.decay"]


def test_a_number_that_is_null_is_one_that_the_run_lacks(tmp_path, cells):
    write_run(tmp_path / "a", cells["modified", "slim"], 0, 40.0)
    nulls = {"train/loss": None, "train/top1": 60.0, "images_per_second": None, "not_finite": {"train/loss": "nan"}}
    write_run(tmp_path / "b", cells["modified", "slim"], 1, 41.0, nulls)
    assert command([str(tmp_path)]) == 0
    assert "training loss (1 of 2 runs)" in (tmp_path / "report" / "report.md").read_text()


def test_only_the_seed_varies(tmp_path, cells):
    for seed, top1 in enumerate((40.0, 41.0, 43.0)):
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, top1)
    assert command([str(tmp_path)]) == 0
    expected = stats.t.interval(0.95, 2, 124 / 3, stats.sem([40.0, 41.0, 43.0]))
    report = (tmp_path / "report" / "report.md").read_text()
    assert f"41.33 ± {(expected[1] - expected[0]) / 2:.2f}" in report
    assert "differ in the seed alone" in report
    assert "## Effects" not in report


def test_the_same_cell_and_seed_twice_counts_once(tmp_path, cells):
    same = {"train_images_key": "1" * 16, "val_images_key": "2" * 16}
    for name in ("a", "b"):
        write_run(tmp_path / name, cells["modified", "slim"], 0, 40.0, same, data__root=f"/elsewhere/{name}")
    assert study(tmp_path).repeated == ["b"]
    assert [run.name for run in study(tmp_path).runs] == ["a"]


def test_a_leak_stands_beside_the_findings(tmp_path, cells):
    for seed in range(2):
        run = write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0, {"val_images_in_train": 3 * seed})
    assert command([str(tmp_path)]) == 0
    said = "LEAK: validation images are training images too, {} at most, in 1 of 2 runs"
    assert said.format(3) in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    judged = json.loads((run / "linear_eval.json").read_text(encoding="utf-8")) | {"val_images_in_train": 1200}
    (run / "linear_eval.json").write_text(json.dumps(judged), encoding="utf-8")
    assert command([str(tmp_path)]) == 0
    assert said.format("1,200") in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def keys(train: str, val: str = "v") -> dict[str, str]:
    return {"train_images_key": train * 16, "val_images_key": val * 16}


def test_other_images_are_a_factor_and_the_same_ones_elsewhere_are_none(tmp_path, cells):
    config = cells["modified", "slim"]
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", config, seed, 40.0 + seed, keys("a"), data__root="/images/A")
        moved = "/images/B" if seed else "/mnt/copy of B"
        write_run(tmp_path / f"b{seed}", config, seed, 50.0 + 1.1 * seed, keys("b"), data__root=moved)
    found = study(tmp_path)
    (factor,) = found.design.factors
    assert factor.name == "data.root"
    assert factor.levels in (("A", "B"), ("A", "copy of B"))
    assert found.repeated == []
    assert [found.cell_mean((level,), found.primary).mean for level in factor.levels] == pytest.approx([41.0, 51.1])
    assert command([str(tmp_path)]) == 0
    assert "Not all runs are judged on the same images" in (tmp_path / "report" / "report.md").read_text("utf-8")


def test_images_that_changed_in_their_place_are_others(tmp_path, cells):
    for name, known in (("a", keys("a")), ("b", keys("b")), ("c", keys("a", "w")), ("d", keys("a"))):
        write_run(tmp_path / name, cells["modified", "slim"], 0, 40.0, known)
    found = study(tmp_path)
    assert found.repeated == ["d"]
    assert set(found.design.factors[0].levels) == {
        "data (aaaaaa vvvvvv)",
        "data (bbbbbb vvvvvv)",
        "data (aaaaaa wwwwww)",
    }


def test_settings_that_change_what_is_seen_of_the_same_images_do_so_alone(tmp_path, cells):
    """Two sizes at two paths of one place: what was seen has four keys, and the size is the one factor."""
    sizes = ((32, keys("a")), (64, keys("b")))
    for size, known in sizes:
        for seed in range(2):
            changes = {"data__root": f"/place {seed}", "data__size": size}
            write_run(tmp_path / f"{size}-{seed}", cells["modified", "slim"], seed, 40.0 + seed, known, **changes)
    assert [factor.name for factor in study(tmp_path).design.factors] == ["data.size"]
    for seed in range(2):  # limit_images takes others, too
        changes = {"data__root": f"/place {seed}", "limit_images": 100}
        write_run(tmp_path / f"few-{seed}", cells["modified", "slim"], seed, 40.0, keys("c"), **changes)
    assert [factor.name for factor in study(tmp_path).design.factors] == ["limit_images", "data.size"]


def test_runs_that_do_not_tell_their_images_are_known_by_the_path(tmp_path, cells):
    """Those of older releases; one such run and a newer one of one path are alike."""
    for seed, known in enumerate((None, keys("a"))):
        write_run(tmp_path / f"a{seed}", cells["modified", "slim"], seed, 40.0, known, data__root="/x/images")
        write_run(tmp_path / f"b{seed}", cells["modified", "slim"], seed, 50.0, data__root="/y/images/")
    found = study(tmp_path)
    assert [(f.name, f.levels) for f in found.design.factors] == [("data.root", ("x/images", "y/images"))]
    assert found.repeated == []


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


def test_label_free_metrics_rank_the_runs(tmp_path, cells):
    """A metric in the runs' order, one in the opposite order of which less is better, and one that is alike in all."""
    for seed in range(8):
        metrics = {"features/rankme": 10.0 + seed**2, "features/alignment": 9.0 - seed, "embeddings/std": 1.0}
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed, metrics)
    rankings = {ranked.metric.key: ranked for ranked in study(tmp_path).rankings}
    for key in ("features/rankme", "features/alignment"):
        assert rankings[key].correlation.rho == pytest.approx(1)
        assert rankings[key].adjusted_p < 0.01
    assert rankings["embeddings/std"].correlation.rho is None


def test_rank_correlation_against_scipy():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(2, 6)).round(1)
    y += x
    mine = rank_correlation(x.tolist(), y.tolist())
    exact = stats.permutation_test(
        (x,), lambda a: stats.spearmanr(a, y).statistic, permutation_type="pairings", n_resamples=np.inf
    )
    assert mine.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert mine.p == pytest.approx(exact.pvalue)


def test_the_report_rebuilds_from_json_and_its_own_curves(tmp_path, cells):
    """Events are read once, by a run that has them; then curves.csv alone gives the same figures."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "sweep"
    for seed in range(2):
        run = write_run(folder / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed)
        with SummaryWriter(str(run)) as events:
            for step in range(0, 2500, 10):
                events.add_scalar("train/loss", 6 - step / 1000 + 0.1 * seed, step)
                events.add_scalar("train/top1", step / 100, step)
            events.add_scalar("val/knn_top1", 20 + seed, 2490)
    assert command([str(folder), "--out", str(tmp_path / "first")]) == 0
    with (tmp_path / "first" / "curves.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if (row["run"], row["tag"]) == ("s1", "train/loss")]
    assert len(rows) == 100
    for row in rows:  # a mean over neighbours of a straight line lies on that line
        assert float(row["value"]) == pytest.approx(6.1 - float(row["step"]) / 1000, abs=1e-4)
    for events_file in folder.rglob("events.out.tfevents.*"):
        events_file.unlink()
    assert command([str(folder), "--out", str(tmp_path / "without")]) == 0
    assert not (tmp_path / "without" / "curves.svg").exists()
    assert "2 of 2 runs have neither TensorBoard events" in (tmp_path / "without" / "report.md").read_text()
    (folder / "curves.csv").write_bytes((tmp_path / "first" / "curves.csv").read_bytes())
    assert command([str(folder), "--out", str(tmp_path / "second")]) == 0
    for name in ("curves.csv", "runs.csv", "effects.csv", "time.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


def test_the_page_needs_nothing_else_and_shows_names_as_text(tmp_path, cells):
    for seed in range(2):
        folder = tmp_path / f"<script>alert(1)<|script>*{seed}"
        write_run(folder, cells["modified", "slim"], seed, 40.0 + seed).joinpath("metrics.json").rename(folder / "gone")
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0 + seed, {"device": "a|b <img src=x>"})
    assert command([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"<script|<img src=x|<link|@import|url\(", page)
    sources = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)", page)
    assert sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert "&lt;script&gt;alert(1)" in page
    assert "a|b &lt;img src=x&gt;" in page
    written = sorted(path.name for path in (tmp_path / "report").iterdir())
    assert not [name for name in written if name.endswith(".part")]
    assert set(re.findall(r"\]\((.*?)\)", (tmp_path / "report" / "report.md").read_text())) <= set(written)


def test_runs_that_were_not_made_alike_are_pointed_out(tmp_path, cells):
    for seed in range(2):
        write_run(tmp_path / f"s{seed}", cells["modified", "slim"], seed, 40.0, {"git_commit": "ab"[seed] * 40})
    assert command([str(tmp_path)]) == 0
    report = (tmp_path / "report" / "report.md").read_text()
    assert "**The runs were not all made alike: they differ in commit**" in report
    assert "a" * 40 + " (1 runs)" not in report
    assert "b" * 40 + " (1 run)" in report


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("s0/metrics.json", '{"train/loss": 1.', "metrics.json cannot be read as JSON"),
        ("s0/linear_eval.json", "[]", "linear_eval.json holds no JSON object"),
        ("s0/linear_eval.json", b"\xff\xfe", "linear_eval.json cannot be read as JSON"),
        ("s0/config.yaml", "a: [", "config.yaml cannot be read"),
        ("s0/config.yaml", "epochs: 3", "config.yaml has no whole number as seed"),
        ("curves.csv", "run,tag\n", "curves.csv cannot be read as a table of curves"),
        ("curves.csv", "run,tag,step,value\ns0,train/loss,x,1\n", "curves.csv cannot be read as a table of curves"),
    ],
)
def test_damaged_files_give_one_clear_error(tmp_path, cells, capsys, file, content, words):
    write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not (tmp_path / "report").exists()


def test_nothing_to_report_gives_one_clear_error(tmp_path, cells, capsys):
    assert command([str(tmp_path / "none")]) == 1
    assert command([str(tmp_path)]) == 1
    (write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0) / "metrics.json").unlink()
    assert command([str(tmp_path)]) == 1
    assert command([str(tmp_path), "--reference", "head"]) == 1
    errors = capsys.readouterr().err.splitlines()
    words = ["there is no folder", "holds no run;", "1 run, not finished", "is not FACTOR=LEVEL"]
    assert len(errors) == 4
    assert all(word in line for word, line in zip(words, errors, strict=True)), errors


def test_a_missing_package_is_named_with_its_remedy(tmp_path, cells):
    """In a second process in which it cannot be imported."""
    write_run(tmp_path / "s0", cells["modified", "slim"], 0, 40.0)
    program = "import runpy, sys; sys.modules['matplotlib'] = None; "
    program += f"sys.argv[1:] = [{str(tmp_path)!r}]; runpy.run_module('simclr.report', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == 'error: the report needs the package matplotlib; pip install -e ".[report]"\n'
