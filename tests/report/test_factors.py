"""What a sweep varies is found in its runs' settings, whichever they are."""

from copy import deepcopy

import pytest

from simclr.commands.report import command
from simclr.errors import InputError
from simclr.report.sections import write_report
from simclr.report.study import study_sweep
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from simclr.runs.identity import as_dict
from tests.report.sweeps import study, write_run


def test_three_levels_of_a_number_are_compared_with_the_first(tmp_path, cells):
    """temperature also reaches method.temperature, which is no factor of its own."""
    for seed in range(3):
        for value, top1 in ((0.07, 40.0), (0.2, 43.0), (0.5, 41.0)):
            folder = tmp_path / f"t{value}-seed{seed}"
            top1 += seed + 0.1 * seed * value
            write_run(folder, cells["modified", "slim"], seed, top1, temperature=value, method__temperature=value)
    (factor,) = study(tmp_path).design.factors
    assert (factor.name, factor.levels) == ("temperature", ("0.07", "0.2", "0.5"))
    effects = study(tmp_path).primary_effects
    assert [(e.levels, e.references) for e in effects] == [(("0.2",), ("0.07",)), (("0.5",), ("0.07",))]
    assert [e.estimate.mean for e in effects] == pytest.approx([3.013, 1.043])
    other = study_sweep(tmp_path, CONFIGS, {"temperature": "0.2"})
    assert [effect.levels for effect in other.primary_effects] == [("0.07",), ("0.5",)]
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


def test_a_method_brings_a_head_of_its_own_and_methods_are_ranked(tmp_path):
    """Neither head nor views are factors beside it; SimCLR, the default, is what the others are compared with."""
    accuracies = {"simclr": 40.0, "byol": 43.0, "barlow_twins": 38.0}
    for method, top1 in accuracies.items():
        config = as_dict(compose_config(f"method={method}", "data=shapes"))
        for seed in range(3):
            write_run(tmp_path / f"{method}-{seed}", config, seed, top1 + seed + 0.1 * seed * (method == "byol"))
    found = study(tmp_path)
    (factor,) = found.design.factors
    assert (factor.name, factor.levels) == ("method", ("simclr", "barlow_twins", "byol"))
    assert {"head", "augmentation"} <= set(found.design.derived)
    rows = [line.split("|")[1].strip() for line in write_report(found, {}, "").splitlines() if line.startswith("| ")]
    assert rows[2:5] == ["byol", "simclr", r"barlow\_twins"]


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
    assert "features/std" in set(found.rankings["metric"])

    for seed in range(2):  # measured otherwise
        (tmp_path / f"a{seed}" / "linear_eval.json").unlink()
        (tmp_path / f"b{seed}" / "linear_eval.json").unlink()
        other = {"callbacks__online_knn__k": 5, "callbacks__label_free__images": 10}
        write_run(tmp_path / f"c{seed}", cells["modified", "baseline"], seed, 41.0, metrics, **other)
        (tmp_path / f"c{seed}" / "linear_eval.json").unlink()
    found = study(tmp_path)
    assert [factor.name for factor in found.design.factors] == ["augmentation", "head"]
    assert [outcome.column for outcome in found.outcomes] == ["train/loss", "train/top1"]
    assert "features/std" not in set(found.rankings["metric"])
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


def test_the_same_cell_and_seed_twice_counts_once(tmp_path, cells):
    same = {"train_images_key": "1" * 16, "val_images_key": "2" * 16}
    for name in ("a", "b"):
        write_run(tmp_path / name, cells["modified", "slim"], 0, 40.0, same, data__root=f"/elsewhere/{name}")
    assert study(tmp_path).repeated == ["b"]
    assert list(study(tmp_path).sweep.files) == ["a"]
