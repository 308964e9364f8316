"""Loggers of other services: what they keep is read back by their own clients, and what cannot be is one line."""

import json

import pytest

from tests.conftest import TINY_RUN, Run, only_run

RUN = (*TINY_RUN, "epochs=1")


def last_values(root) -> tuple[str, dict]:
    run_dir = only_run(root / "outputs")
    return run_dir.name, json.loads((run_dir / "metrics.json").read_text())


@pytest.mark.slow
def test_mlflow_has_the_runs_curves_and_settings(run: Run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "tracked").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # no server here
    run("train.py", *RUN, "logger=mlflow", fresh=True)
    name, metrics = last_values(tmp_path)
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "tracked").as_uri())
    (found,) = client.search_runs([client.get_experiment_by_name("simclr-lab").experiment_id])
    assert found.info.run_name == name
    assert found.data.params["data/size"] == "16"
    for tag in ("train/loss", "val/knn_top1"):
        assert found.data.metrics[tag] == pytest.approx(metrics[tag])


@pytest.mark.slow
def test_weights_and_biases_without_a_network_beside_a_table(run: Run, tmp_path):
    pytest.importorskip("wandb")
    run("train.py", *RUN, "logger=[csv,wandb]", "logger.wandb.offline=true", fresh=True)
    name, metrics = last_values(tmp_path)
    run_dir = tmp_path / "outputs" / name
    (kept,) = run_dir.glob(f"wandb/offline-run-*/run-{name}.wandb")
    assert all(word in kept.read_bytes() for word in (b"train/loss", b"val/knn_top1", b"batch_size"))
    assert str(metrics["val/knn_top1"])[:6] in (run_dir / "metrics.csv").read_text()
    assert not list(run_dir.glob("events*"))


def test_a_server_that_is_not_there_gets_one_line_and_nothing_is_trained(run: Run, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = run("train.py", *RUN, "logger=mlflow", check=False)
    assert done.returncode == 1
    assert "error: logger.mlflow: MLFlowLogger cannot be opened: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_logger_without_a_class_is_refused(run: Run):
    done = run("train.py", *RUN, "+logger.mine=yes", check=False)
    assert "error: logger.mine=yes is not usable; name a class with +logger.NAME._target_=" in done.stderr
