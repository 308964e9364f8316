"""What TensorBoard shows beside curves: read back by TensorBoard's own readers, held against torchvision and Pillow."""

import csv

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torchvision.models import resnet18

from simclr.data.shapes import Shapes
from simclr.errors import InputError
from simclr.training.csv_curves import CSVCurves
from simclr.training.tensorboard import TensorBoardStory, _heat, write_projector
from tests.conftest import TINY_RUN, Run, only_run, tiny_imagenet_files, weights, write_zip


def events_of(run_dir) -> EventAccumulator:
    return EventAccumulator(str(run_dir)).Reload()


def test_a_page_begins_with_the_loss_and_holds_tags_that_exist(finished):
    events = events_of(only_run(finished / "outputs"))
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (page,) = layout.category
    tags = [tag for chart in page.chart for tag in chart.multiline.tag]
    assert tags[0] == "train/loss"
    assert "val/knn_top1" in tags
    assert set(tags) <= set(events.Tags()["scalars"])


def test_runs_compare_by_what_was_chosen_and_what_the_command_changed(finished):
    run_dir = only_run(finished / "outputs")
    plugins = events_of(run_dir).summary_metadata
    start = HParamsPluginData.FromString(plugins["_hparams_/session_start_info"].plugin_data.content).session_start_info
    chosen = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert chosen.items() >= {"data": "shapes", "augmentation": "modified", "head": "slim", "method": "simclr"}.items()
    assert chosen.items() >= {"data.size": 16, "epochs": 2, "optimizer.lr": 3e-4, "seed": 0, "precision": 32}.items()
    assert "output_root" not in chosen
    assert start.group_name == run_dir.name


def test_views_and_similarities_are_images_of_the_first_step_and_the_last(finished):
    events = events_of(only_run(finished / "outputs"))
    (views,) = events.Images("views")
    assert (views.step, views.width, views.height) == (0, 10 * 18 + 2, 2 * 18 + 2)  # ten images of 16 pixels, two views
    similarities = events.Images("similarity of two views")
    assert [image.step for image in similarities] == [0, 7]
    assert similarities[0].encoded_image_string != similarities[1].encoded_image_string


def test_a_cosine_has_the_colour_of_its_sign_and_strength():
    colours = _heat(torch.tensor([[1.0, 0.0], [0.5, -1.0]]))[:, ::256, ::256]
    assert colours[:, 0, 1].tolist() == [1, 1, 1]
    assert colours[0, 0, 0] > colours[2, 0, 0]  # orange
    assert colours[2, 1, 1] > colours[0, 1, 1]  # blue
    torch.testing.assert_close(colours[:, 1, 0], (1 + colours[:, 0, 0]) / 2)


def test_the_projector_has_the_features_images_and_classes_of_validation_images(finished):
    run_dir = only_run(finished / "outputs")
    config = text_format.Parse((run_dir / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (shown,) = config.embeddings
    network = resnet18(weights=None)
    network.fc = torch.nn.Identity()
    network.load_state_dict(load_file(run_dir / "backbone.safetensors"))
    val = Shapes(64, 20, 16, seed=0).load().val
    assert val is not None
    order = np.random.default_rng(20).permutation(20)
    pixels = val.pixels[order]
    with torch.no_grad():
        features = network.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    written = np.loadtxt(run_dir / shown.tensor_path, delimiter="\t")
    np.testing.assert_allclose(written, features.numpy(), rtol=1e-3, atol=1e-4)
    assert (run_dir / shown.metadata_path).read_text().splitlines() == [val.classes[i] for i in val.labels[order]]
    with Image.open(run_dir / shown.sprite.image_path) as sprite:
        assert sprite.size == (5 * 16, 5 * 16)  # 20 images in a square of 25
        assert np.array_equal(np.asarray(sprite)[16:32, 32:48], pixels[7])  # second row, third column
    assert list(shown.sprite.single_image_dim) == [16, 16]


def test_thumbnails_are_small_and_names_one_line(tmp_path):
    val = Shapes(20, 4, 96, seed=0).load().val
    assert val is not None
    write_projector(tmp_path, torch.randn(4, 3), val, ["two\nlines\t", *val.classes[1:]])
    with Image.open(tmp_path / "projector" / "sprite.png") as sprite:
        assert sprite.size == (128, 128)
    lines = (tmp_path / "projector" / "metadata.tsv").read_text().splitlines()
    assert len(lines) == 4
    assert all(lines[i] == "two lines" for i in np.flatnonzero(val.labels == 0))


@pytest.mark.slow
def test_what_is_shown_changes_nothing_that_is_learned(run: Run, finished, tmp_path):
    run("train.py", *TINY_RUN, "callbacks.tensorboard=null")
    run_dir = only_run(tmp_path / "outputs")
    assert not (run_dir / "projector").exists()
    without = weights(run_dir)
    assert all(torch.equal(without[name], tensor) for name, tensor in weights(only_run(finished / "outputs")).items())


@pytest.mark.slow
def test_words_of_the_images_own_folder_name_the_points(run: Run, tmp_path):
    root = write_zip(tmp_path / "tiny.zip", tiny_imagenet_files())
    run("train.py", f"data.root={root}", "batch_size=4", "epochs=1", "precision=32", "callbacks.tensorboard.features=3")
    lines = (only_run(tmp_path / "outputs") / "projector" / "metadata.tsv").read_text().splitlines()
    assert len(lines) == 3
    assert set(lines) <= {"cat", "n02", "n03"}
    assert "cat" in lines  # two of the four


@pytest.mark.parametrize("name", ["images", "features"])
@pytest.mark.parametrize("value", [-1, 1.5, "many", True])
def test_numbers_that_are_none_are_refused(name, value):
    with pytest.raises(InputError, match=rf"callbacks\.tensorboard\.{name}={value}"):
        TensorBoardStory(**{"images": 1, "features": 1, name: value})


def test_a_table_goes_on_where_the_run_does(tmp_path, recwarn):
    def rows():
        with (tmp_path / "metrics.csv").open(newline="") as file:
            return [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]

    first = CSVCurves(str(tmp_path))
    for step in range(6):
        first.log_metrics({"loss": float(step)}, step)
    first.save()
    again = CSVCurves(str(tmp_path), purge_step=4)
    assert rows() == [(step, f"{step}.0") for step in range(4)]  # at once: a kill loses nothing
    again.log_metrics({"loss": 40.0, "rate": 0.1}, 4)
    again.save()
    assert rows() == [*((step, f"{step}.0") for step in range(4)), (4, "40.0")]
    CSVCurves(str(tmp_path), purge_step=0)
    assert rows() == []
    assert not recwarn.list
