"""Result files are JSON that every program reads, and no number in them was taken of what is no number."""

import json
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from simclr.commands.train import outcome
from simclr.errors import InputError
from simclr.evaluation import label_free
from simclr.evaluation.features import are_finite
from simclr.evaluation.knn import knn_predict
from simclr.runs.results import write_json
from tests.conftest import TINY_RUN, only_run


def strict(path: Path) -> dict:
    """As jq, JavaScript and DuckDB read it: NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise ValueError(f"{path} holds a bare {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_what_is_no_number_is_null_and_named(tmp_path):
    content = {"loss": math.nan, "rates": [1.5, math.inf], "deep": {"low": -math.inf}, "name": "Café", "n": 3}
    write_json(tmp_path / "a.json", content)
    assert strict(tmp_path / "a.json") == {
        "loss": None,
        "rates": [1.5, None],
        "deep": {"low": None},
        "name": "Café",
        "n": 3,
        "not_finite": {"loss": "nan", "rates.1": "inf", "deep.low": "-inf"},
    }
    write_json(tmp_path / "a.json", {"loss": 1.0})
    assert strict(tmp_path / "a.json") == {"loss": 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_features_that_are_not_finite_are_not_classified_and_not_measured(value):
    """1e30 is a number; but the length of such features overflows, and every similarity with it."""
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    assert are_finite(features)
    broken = features.clone()
    broken[7] = value
    assert not are_finite(features, broken)
    for bank, queries in ((broken, features), (features, broken)):
        with pytest.raises(InputError, match="finite features"):
            knn_predict(bank, labels, queries, 2, k=5, temperature=0.07)
    for three in ((broken, features, features), (features, broken, features), (features, features, broken)):
        found = label_free.measure(*three)
        assert all(math.isnan(number) for number in found.scalars.values())
        assert found.spread.isnan().all()
    assert label_free.collapse(found.scalars, 40) == "they are not finite"


@pytest.mark.slow
def test_a_run_of_broken_features_says_so_in_strict_json(run, tmp_path):
    done = run("train.py", *TINY_RUN, "optimizer.lr=1e25", "on_nan=skip")
    assert "Epoch 2: the features are not finite, so there is no k-NN accuracy." in done.stdout
    assert "Epoch 2: k-NN" not in done.stdout
    assert "the features have COLLAPSED: they are not finite" in done.stdout
    metrics = strict(only_run(tmp_path / "outputs") / "metrics.json")
    broken = {"val/knn_top1", "features/rankme", "embeddings/std"}
    assert broken <= metrics["not_finite"].keys()
    for tag in broken:
        assert metrics[tag] is None
        assert metrics["protocol"][tag].startswith("null, as what it is taken of is not finite; ")
    assert metrics["val/knn_top1_untrained"] >= 0
    assert metrics["protocol"]["val/knn_top1_untrained"].startswith("before training; ")


@pytest.mark.slow
def test_a_search_goes_by_what_it_is_told(run, tmp_path):
    search = (
        "hparams_search=optuna",
        "hydra.sweeper.n_trials=2",
        "optimizer.lr=choice(1e-5,1e-3)",
        "evaluate=[linear]",
    )
    run("train.py", *TINY_RUN, *search, "optimized_metric=linear_eval/held_out_top1")
    values = [strict(path)["held_out_top1"] for path in tmp_path.glob("multirun/search/*/linear_eval.json")]
    best = OmegaConf.load(tmp_path / "multirun" / "search" / "optimization_results.yaml")
    assert best.best_value == pytest.approx(max(values))


def test_a_number_that_no_run_has_is_named_beside_those_there_are(finished, caplog):
    run_dir = only_run(finished / "outputs")
    metrics, linear = strict(run_dir / "metrics.json"), strict(run_dir / "linear_eval.json")
    assert outcome(run_dir, "features/rankme") == metrics["features/rankme"]
    assert outcome(run_dir, "linear_eval/top1") == linear["top1"]
    assert not caplog.records
    assert outcome(run_dir, "features/rank") is None
    assert "has no features/rank to go by; what there is: " in caplog.text
    assert "features/rankme" in caplog.text


@pytest.mark.slow
def test_a_search_counts_broken_features_as_a_failed_trial(run, tmp_path):
    pytest.importorskip("optuna")
    search = ("hparams_search=optuna", "hydra.sweeper.n_trials=3", "optimizer.lr=choice(1e25,1e-3)", "on_nan=skip")
    done = run("train.py", *TINY_RUN, *search)
    values = [strict(path)["val/knn_top1"] for path in tmp_path.glob("multirun/search/*/metrics.json")]
    assert None in values
    best = OmegaConf.load(tmp_path / "multirun" / "search" / "optimization_results.yaml")
    assert best.best_value == max(value for value in values if value is not None)
    assert "has no number to go by; the search goes on" in done.stdout
