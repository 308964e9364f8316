"""Loggers, callbacks and their arguments as users choose them; Lightning's own callbacks tell what is there."""

import csv
import json
import logging
import re

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict, read_write

from simclr.commands.pretrain import pretrain
from simclr.errors import InputError
from simclr.runs.build import build
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint
from simclr.runs.identity import as_dict
from simclr.system import precision
from simclr.system.signals import Stop
from simclr.training.trainer_settings import check_trainer_settings
from tests.conftest import TINY_RUN
from tests.system.test_threads import usable
from tests.test_configs import composed

LIGHTNING = "pytorch_lightning.callbacks"
MEASURED = "callbacks.online_knn.every_n_epochs=2"


def trained(folder, *overrides: str) -> dict:
    """Train in this process; returns metrics.json."""
    config = composed(*TINY_RUN, "trainer.accelerator=cpu", *overrides)
    with read_write(config.hydra.runtime), open_dict(config):
        config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        del config["hydra"]
    pretrain(config, Stop(75))
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def with_curves(tmp_path_factory) -> dict:
    return trained(tmp_path_factory.mktemp("curves"))


@pytest.mark.slow
@pytest.mark.parametrize("none", ["logger=none", "~logger"])
def test_without_a_logger_the_last_values_are_those_with_one(tmp_path, with_curves, none):
    metrics = trained(tmp_path, none)
    assert not list(tmp_path.glob("events*"))
    for tag, value in with_curves.items():
        if tag.startswith(("train/", "val/", "features/", "embeddings/")) and tag != "train/images_per_second":
            assert metrics[tag] == pytest.approx(value), tag
    assert metrics["protocol"].keys() == with_curves["protocol"].keys()


@pytest.mark.slow
def test_another_logger_gets_what_it_takes(tmp_path, with_curves):
    trained(
        tmp_path,
        "logger=none",
        "+logger.own._target_=pytorch_lightning.loggers.CSVLogger",
        "+logger.own.name=",
        "+logger.own.version=",
    )
    with (tmp_path / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["val/knn_top1"]]
    assert float(rows[-1]["val/knn_top1"]) == pytest.approx(with_curves["val/knn_top1"])


@pytest.mark.parametrize("none", ["callbacks=none", "~callbacks"])
def test_without_callbacks_a_run_leaves_what_it_promises(tmp_path, with_curves, none):
    metrics = trained(tmp_path, none, "logger=none")
    assert metrics["train/loss"] == pytest.approx(with_curves["train/loss"])
    assert "val/knn_top1" not in metrics
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_run_ends_early_by_a_measure_that_is_not_taken_in_every_epoch(tmp_path):
    """EarlyStopping is strict: it raises where the value is missing."""
    settings = "monitor: val/knn_top1, mode: max, min_delta: 1e3, patience: 3"
    stop = f"+callbacks.stop={{_target_: {LIGHTNING}.EarlyStopping, {settings}}}"
    metrics = trained(tmp_path, stop, MEASURED, "epochs=50")
    # The value of the untrained encoder, which epoch 1 finds, is the best by min_delta; three epochs do not better it.
    assert metrics["epochs"] == 4
    assert metrics["images_seen"] == 4 * 64


def test_a_run_that_ended_early_but_was_killed_before_its_numbers_trains_no_further(tmp_path):
    stop = f"+callbacks.stop={{_target_: {LIGHTNING}.EarlyStopping, monitor: train/loss, stopping_threshold: 99}}"
    first = trained(tmp_path, stop, "epochs=7", "logger=none")
    assert first["epochs"] == 1
    (tmp_path / "metrics.json").unlink()
    again = trained(tmp_path, stop, "epochs=7", "logger=none")
    assert (again["epochs"], again["images_seen"], again["train/loss"]) == (1, 64, first["train/loss"])


@pytest.mark.slow
def test_a_run_that_ended_early_goes_on_where_more_is_asked_for(tmp_path):
    stop = f"+callbacks.stop={{_target_: {LIGHTNING}.EarlyStopping, monitor: train/loss, stopping_threshold: 99}}"
    trained(tmp_path / "one", stop, "epochs=7")
    more = trained(tmp_path / "two", "epochs=3", f"resume={tmp_path / 'one'}")
    assert (more["epochs"], more["images_seen"]) == (3, 3 * 64)


def test_the_best_weights_by_a_measure_are_kept_whatever_the_order(tmp_path):
    """The callback stands before the measure that it monitors."""
    best = f"{{_target_: {LIGHTNING}.ModelCheckpoint, monitor: features/std, mode: max, filename: best}}"
    knn = "{_target_: simclr.training.label_free.LabelFree, every_n_epochs: 1, images: 32}"
    metrics = trained(tmp_path, "callbacks=none", f"+callbacks.a={best}", f"+callbacks.b={knn}", "epochs=1")
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint"))
    assert float(state["best_model_score"]) == pytest.approx(metrics["features/std"])


WRONG = [
    ("+scheduler.cycles=1", "scheduler.cycles=1 is not usable: cosine takes optimizer, total_steps"),
    ("+optimizer.momentum=0.9", "optimizer.momentum=0.9 is not usable: Adam takes params, lr"),
    (
        "+callbacks.progress.colour=red",
        "callbacks.progress.colour=red is not usable: TrainingProgress takes line_every",
    ),
    (
        f"+callbacks.x._target_={LIGHTNING}.EarlyStopping",
        "EarlyStopping needs monitor; give it with +callbacks.x.monitor=",
    ),
    (
        "+callbacks.x._target_=no.such.Thing",
        "callbacks.x._target_=no.such.Thing cannot be imported (No module named 'no')",
    ),
    (f"+callbacks.x._target_={LIGHTNING}.Nothing", f"callbacks.x._target_={LIGHTNING}.Nothing cannot be imported"),
    ("+callbacks.x=3", "callbacks.x=3 is not usable; name a class with +callbacks.x._target_="),
    ("trainer.accelerator=abacus", "trainer.accelerator=abacus is not known"),
]


@pytest.mark.parametrize(("override", "said"), WRONG)
def test_a_wrong_argument_is_named_before_anything_is_trained(tmp_path, override, said):
    with pytest.raises(InputError, match=re.escape(said)):
        trained(tmp_path, override)
    assert not (tmp_path / "checkpoints").exists()


def test_arguments_below_a_target_are_checked_too():
    config = OmegaConf.create(
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.ReLU", "place": True}]}
    )
    with pytest.raises(InputError, match=r"\.place=True is not usable: ReLU takes inplace"):
        build(config)


@pytest.mark.parametrize(
    ("argument", "use"),
    [
        ("trainer.max_epochs=3", "use epochs="),
        ("+trainer.max_steps=3", "use epochs="),
        ("+trainer.accumulate_grad_batches=2", "use batch_size= with method.micro_batch="),
        ("+trainer.limit_train_batches=2", "use limit_images= and epochs="),
        ("+trainer.overfit_batches=1", "use limit_images= and epochs="),
        ("+trainer.fast_dev_run=true", "use limit_images= and epochs="),
        ("+trainer.precision=16", "use precision="),
        ("+trainer.num_nodes=2", "start this on every machine: torchrun --nnodes=N"),
        ("+trainer.enable_progress_bar=false", "use callbacks.progress=null"),
    ],
)
def test_what_would_make_it_another_run_is_refused_with_the_key_to_use(argument, use):
    config = composed(*TINY_RUN, argument)
    with pytest.raises(InputError, match=re.escape(use)):
        check_trainer_settings(as_dict(config.trainer), config.epochs)


@pytest.mark.slow
def test_settings_that_change_no_number_pass(tmp_path, with_curves, capsys):
    harmless = ("num_sanity_val_steps=1", "detect_anomaly=true", "limit_val_batches=0.5", "inference_mode=false")
    overrides = ["callbacks.progress=null", *(f"+trainer.{one}" for one in harmless)]
    config = composed(*TINY_RUN, *overrides, "trainer.max_epochs=2")
    check_trainer_settings(as_dict(config.trainer), config.epochs)
    metrics = trained(tmp_path, *overrides)
    assert (metrics["epochs"], metrics["train/loss"]) == (2, pytest.approx(with_curves["train/loss"]))
    assert "Epoch" not in "".join(capsys.readouterr())  # nor does Lightning put a bar of its own in that place


@pytest.mark.slow
@pytest.mark.skipif(usable() < 2, reason="one core has one thread")
def test_a_run_that_goes_on_keeps_its_threads_and_its_precision(tmp_path, monkeypatch, caplog):
    """With auto; what the machine would choose now does not matter, unless it is asked for."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        trained(tmp_path, "epochs=1", "threads=2", "precision=32")
        assert torch.get_num_threads() == 2
        torch.set_num_threads(before)
        (tmp_path / "metrics.json").unlink()
        monkeypatch.setattr(precision, "cpu_instructions", lambda: {"avx512_bf16"})
        metrics = trained(tmp_path, "epochs=1", "precision=auto")
        assert metrics["device"].endswith(", 2 threads")
        assert metrics["precision"] == "32"
        (tmp_path / "metrics.json").unlink()
        with caplog.at_level(logging.INFO):
            assert trained(tmp_path, "epochs=1", "threads=1")["device"].endswith(", 1 threads")
        assert "began on 2 threads and goes on on 1" in caplog.text
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_that_tells_no_precision_keeps_what_auto_was(tmp_path, monkeypatch):
    trained(tmp_path, "epochs=1", "precision=32")
    (tmp_path / "metrics.json").unlink()
    checkpoint = load_checkpoint(last_checkpoint(tmp_path))
    del checkpoint["machine"]
    torch.save(checkpoint, last_checkpoint(tmp_path))
    monkeypatch.setattr(precision, "cpu_instructions", lambda: {"avx512_bf16"})
    assert trained(tmp_path, "epochs=1", "precision=auto")["precision"] == "32"
