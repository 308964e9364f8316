"""What a run says of itself, before it trains and after."""

import json

import pytest
from omegaconf import open_dict

from simclr.commands.choices import Machine
from simclr.commands.panels import PUBLISHED, beginning, end
from simclr.runs.assemble import assemble
from simclr.runs.compose import compose_config
from simclr.training.datamodule import PretrainingData
from tests.conftest import TINY_RUN, only_run


def told(*overrides: str) -> tuple:
    config = compose_config(*TINY_RUN, *overrides)
    source, augmentation, method = assemble(config)
    data = PretrainingData(source, augmentation, config.batch_size, config.seed)
    data.setup()
    return config, data, augmentation, method


def test_it_begins_with_what_is_trained_on_what_for_how_long_and_where_to_watch_it():
    config, data, augmentation, method = told("method=byol", "augmentation.size_until=[[0.5,12]]", "optimizer=sgd")
    lines = beginning(config, data, augmentation, method, Machine("cpu", "bf16", 2))
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    parameters = sum(p.numel() for p in method.parts()["predictor"].parameters())
    for words in ("BYOL of 64 images, 2 views of 12 to 16 pixels", f"predictor {parameters:,}", "2 epochs of 4 steps"):
        assert words in text
    assert "target" not in text  # which does not learn
    assert "SGD at 0.05" in text
    assert "cpu, 2 threads, precision bf16" in text
    assert "tensorboard --logdir outputs" in text
    config.logger = None
    assert "tensorboard" not in "\n".join(beginning(config, data, augmentation, method, Machine("cuda", "16", 1)))


@pytest.mark.parametrize(("after", "words"), [(9.5, "5.50 points above"), (1.0, "3.00 points below")])
def test_it_ends_with_what_came_of_it_beside_the_untrained_encoder(tmp_path, after, words):
    config, data, _, method = told()
    text = "\n".join(end(config, tmp_path, {"val/knn_top1": after, "val/knn_top1_untrained": 4.0}, data, method))
    assert f"{words} the untrained encoder's" in text
    assert "published" not in text  # of other images
    assert f"linear_eval.py run={tmp_path}" in text
    with open_dict(config):
        config.data._target_ = "simclr.data.tiny_imagenet.TinyImageNet"
    assert f"{PUBLISHED['simclr'][0]} % by a linear classifier" in "\n".join(end(config, tmp_path, {}, data, method))
    config.backbone._target_ = "simclr.models.backbone.resnet50_encoder"
    assert "published" not in "\n".join(end(config, tmp_path, {}, data, method))


def test_a_run_prints_both(finished):
    printed = (finished / "train.py.txt").read_text()
    assert "learns  SimCLR of 64 images, 2 views of 16 pixels" in printed
    metrics = json.loads((only_run(finished / "outputs") / "metrics.json").read_text())
    assert f"k-NN top-1 {metrics['val/knn_top1']:.2f} %," in printed
    assert printed.index("learns") < printed.index("Done. Judge it with") < printed.index("Look at it with")
