"""Procedural shapes, image folders, and the batches that training reads."""

import threading
from dataclasses import asdict, replace
from typing import cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.core.optimizer import LightningOptimizer

from simclr.augment import reference
from simclr.augment.augmentation import Augmentation
from simclr.data.batch import Batch, Views
from simclr.data.folder import ImageFolder
from simclr.data.shapes import SHAPES, Shapes
from simclr.data.store import Splits
from simclr.errors import InputError
from simclr.training.datamodule import PretrainingData
from simclr.training.step_loader import StepLoader
from tests.augment.test_engines import RECIPE
from tests.conftest import two_views


def random_image(path, size, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    channels = {"RGB": 3, "L": None, "CMYK": 4, "RGBA": 4, "P": None}[mode]
    shape = (size[1], size[0]) if channels is None else (size[1], size[0], channels)
    Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), None if mode == "P" else mode).convert(mode).save(
        path
    )


def test_shapes_are_a_function_of_seed_split_and_index():
    small, large = Shapes(20, 10, 32, seed=0).load(), Shapes(50, 30, 32, seed=0).load()
    assert np.array_equal(small.train.pixels, large.train.pixels[:20])
    assert np.array_equal(small.val.pixels, large.val.pixels[:10])
    assert not np.array_equal(small.train.pixels[:10], small.val.pixels)
    assert not np.array_equal(small.train.pixels, Shapes(20, 10, 32, seed=1).load().train.pixels)


def test_shapes_are_balanced_and_named():
    train = Shapes(500, 10, 32, seed=0).load().train
    assert train.classes == list(SHAPES)
    assert np.bincount(train.labels).tolist() == [50] * len(SHAPES)


def test_the_hue_of_an_image_says_nothing_about_its_class():
    train = Shapes(2000, 10, 16, seed=0).load().train
    red, green, blue = train.pixels.reshape(2000, -1, 3).mean(axis=1).T
    for hue in (red - green, green - blue):
        for label in range(len(SHAPES)):
            assert abs(hue[train.labels == label].mean()) < 4.5 * hue.std() / np.sqrt(200)


@pytest.mark.parametrize("outline", SHAPES.values(), ids=SHAPES.keys())
def test_every_outline_fits_the_unit_disc_and_has_an_inside(outline):
    axis = np.linspace(-1.5, 1.5, 301)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    inside = outline(x, y) < 0
    assert inside.mean() > 0.02
    assert np.hypot(x, y)[inside].max() < 1.05


def test_folder_with_train_and_val(tmp_path):
    for split, wanted in (("train", {"cat": 3, "dög é": 2}), ("val", {"dög é": 1})):
        for name, count in wanted.items():
            for i in range(count):
                random_image(tmp_path / "my images" / split / name / f"{i}.png", (50 + i, 40))
    _, train, val = ImageFolder(str(tmp_path / "my images"), 32, 0.1).load()
    assert train.classes == ["cat", "dög é"]
    assert train.labels.tolist() == [0, 0, 0, 1, 1]
    assert val.labels.tolist() == [1]
    assert train.pixels.shape == (5, 32, 32, 3)


def test_folder_without_a_split_holds_some_out(tmp_path):
    for i in range(20):
        random_image(tmp_path / "p" / "ab"[i % 2] / "deeper" / f"{i}.jpg", (40, 40), seed=i)
    (tmp_path / "p" / "a" / "notes.txt").write_text("not an image")
    _, train, val = ImageFolder(str(tmp_path / "p"), 16, 0.25).load()
    assert (len(train), len(val)) == (15, 5)
    assert sorted([*train.rows, *val.rows]) == list(range(20))
    again = ImageFolder(str(tmp_path / "p"), 16, 0.25).load()
    assert again.val.rows.tolist() == val.rows.tolist()


def test_folder_without_labels(tmp_path):
    random_image(tmp_path / "p" / "1.png", (20, 30))
    random_image(tmp_path / "p" / "some" / "2.png", (20, 30))
    _, train, val = ImageFolder(str(tmp_path / "p"), 16, 0.1).load()
    assert len(train) == 2
    assert train.labels is None
    assert val is None


@pytest.mark.parametrize(("mode", "ending"), [("L", "png"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "gif")])
def test_every_colour_mode_becomes_rgb(tmp_path, mode, ending):
    path = tmp_path / "p" / f"1.{ending}"
    random_image(path, (24, 24), mode)
    train = ImageFolder(str(tmp_path / "p"), 24, 0.1).load().train
    with Image.open(path) as image:
        assert np.array_equal(train.pixels[0], np.asarray(image.convert("RGB")))


def test_images_keep_their_proportions(tmp_path):
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255  # the middle third is all that a centre crop keeps
    (tmp_path / "p").mkdir()
    Image.fromarray(wide).save(tmp_path / "p" / "wide.png")
    assert ImageFolder(str(tmp_path / "p"), 20, 0.1).load().train.pixels.min() == 255


def test_a_stray_file_a_dangling_link_and_a_sideways_photo(tmp_path):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter to the right
    (tmp_path / "p").mkdir()
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "p" / "photo.png", exif=exif)
    (tmp_path / "p" / "paper.pdf").write_bytes(b"%PDF")
    (tmp_path / "p" / "gone.jpg").symlink_to("nowhere")
    train = ImageFolder(str(tmp_path / "p"), 16, 0.1).load().train
    assert np.array_equal(train.pixels, upright[None])


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        ImageFolder(str(tmp_path / "nowhere"), 16, 0.1).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no images"):
        ImageFolder(str(tmp_path / "empty"), 16, 0.1).load()
    random_image(tmp_path / "p" / "train" / "cat" / "1.png", (9, 9))
    random_image(tmp_path / "p" / "val" / "dog" / "1.png", (9, 9))
    with pytest.raises(InputError, match=r"val has the class dog, and .*train has not"):
        ImageFolder(str(tmp_path / "p"), 16, 0.1).load()


@pytest.fixture(scope="module")
def store():
    return Shapes(50, 10, 16, seed=0).load().train


def batches(loader: StepLoader, count: int) -> list[Batch]:
    found: list[Batch] = []
    while len(found) < count:
        found.extend(loader)
    return found[:count]


def test_an_epoch_shows_each_image_at_most_once_and_drops_the_rest(store):
    loader = StepLoader(store, 16, seed=0)
    assert len(loader) == 3
    first, second = list(loader), list(loader)
    assert [batch.step for batch in first + second] == [0, 1, 2, 3, 4, 5]
    rows = torch.cat([batch.rows for batch in first])
    assert len(rows.unique()) == 48
    assert not torch.equal(rows, torch.cat([batch.rows for batch in second]))
    for batch in first:
        assert batch.images.dtype == torch.uint8
        assert torch.equal(batch.images, store.gather(batch.rows.numpy()))


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_loader_goes_on_from_any_step(store, stop):
    whole = batches(StepLoader(store, 16, seed=0), 10)
    resumed = StepLoader(store, 16, seed=0, step=stop)
    for ours, theirs in zip(batches(resumed, 10 - stop), whole[stop:], strict=True):
        assert ours.step == theirs.step
        assert torch.equal(ours.rows, theirs.rows)


@pytest.mark.parametrize("steps_per_epoch", [1, 2, 3, 4, 7])
def test_the_length_of_an_epoch_moves_its_ends_and_no_image(store, steps_per_epoch):
    whole = batches(StepLoader(store, 16, seed=0), 14)  # of three steps a pass
    loader = StepLoader(store, 16, seed=0, step=5, steps_per_epoch=steps_per_epoch)
    epoch = list(loader)
    assert len(loader) == steps_per_epoch
    assert epoch[-1].step % steps_per_epoch == steps_per_epoch - 1
    for ours, theirs in zip(epoch + batches(loader, 9 - len(epoch)), whole[5:], strict=True):
        assert ours.step == theirs.step
        assert torch.equal(ours.rows, theirs.rows)


def test_another_seed_is_another_order(store):
    one, other = (next(iter(StepLoader(store, 16, seed))) for seed in (0, 1))
    assert not torch.equal(one.rows, other.rows)


def test_views_are_a_function_of_seed_and_step(store):
    def views(seed: int, step: int, augment=None) -> torch.Tensor:
        arguments = {} if augment is None else {"augment": augment}
        data = PretrainingData(Shapes(50, 10, 64, seed=0), two_views(RECIPE), 8, seed, **arguments)
        data.setup()
        images = data.train.gather(np.arange(8))
        return torch.stack(data.on_after_batch_transfer(Batch(images, torch.arange(8), step, {}), 0).images)

    first = views(0, 0)
    torch.rand(100)  # the global generator is nobody's
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(views(0, 0), first)
    torch.set_num_threads(threads)
    assert first.shape == (2, 8, 3, 64, 64)
    assert 0 <= first.min() <= first.max() <= 1
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(views(0, 1), first)
    assert not torch.equal(views(1, 0), first)
    # One recipe, two engines: solarised values apart, the reference shows the same images.
    assert (views(0, 0, reference.augment) - first).abs().mean() < 0.02


class Sees(pl.LightningModule):
    """Learns nothing, and remembers the sizes of the views of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.sizes: list[list[int]] = []

    def training_step(self, batch: Views, batch_idx: int) -> None:
        self.sizes.append([images.shape[-1] for images in batch.images])
        cast(LightningOptimizer, self.optimizers()).step()  # which Lightning counts

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_the_views_of_a_step_have_the_size_that_the_configuration_says():
    augmentation = Augmentation(2, size_until=[[0.5, 16], [0.75, 24]], **asdict(replace(RECIPE, size=32)))
    data, sees = PretrainingData(Shapes(50, 10, 32, seed=0), augmentation, 8, 0), Sees()
    trainer = pl.Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    trainer.fit(sees, data)  # 12 steps
    assert sees.sizes == [[16, 16]] * 6 + [[24, 24]] * 3 + [[32, 32]] * 3
    assert data.plain.size == 32


def test_settings_that_cannot_be_used():
    with pytest.raises(InputError, match="batch_size=1 leaves an image nothing"):
        PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 1, 0)
    for few in (7, 8.5, "all"):
        with pytest.raises(InputError, match=f"images_per_epoch={few} is not usable"):
            PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 8, 0, images_per_epoch=few)
    with pytest.raises(InputError, match="limit_images=0"):
        PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 8, 0, limit_images=0).setup()
    with pytest.raises(InputError, match="batch_size=64 is larger than the number of training images, 50"):
        PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 64, 0).setup()
    with pytest.raises(InputError, match="batch_size=32 is larger than the number of training images, 20"):
        PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 32, 0, limit_images=20).setup()


def test_a_batch_carries_the_columns_that_the_method_reads_and_no_other(store):
    data = PretrainingData(Shapes(50, 10, 16, 0), two_views(replace(RECIPE, size=16)), 8, 0, reads={"labels"})
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.columns.keys() == {"labels"}
    assert batch.columns["labels"].tolist() == data.pretrain.labels[batch.rows].tolist()
    assert data.on_after_batch_transfer(batch, 0).columns is batch.columns


def test_images_that_lack_what_the_method_reads_are_refused():
    data = PretrainingData(Shapes(50, 10, 16, 0), two_views(RECIPE), 8, 0, reads={"labels", "boxes"})
    with pytest.raises(InputError, match="the method learns from boxes, which these images lack"):
        data.setup()


def test_what_is_learned_from_need_not_be_what_probes_are_fitted_on():
    """Limiting the one leaves the other whole."""
    train, val = Shapes(50, 10, 16, 0).load()[1:]

    class Apart:
        def load(self) -> Splits:
            return Splits(Shapes(80, 10, 16, 1).load().train, train, val)

    data = PretrainingData(Apart(), two_views(RECIPE), 8, 0, limit_images=20)
    data.setup()
    assert (len(data.pretrain), len(data.train), len(data.val)) == (20, 50, 10)
    assert data.steps_per_epoch == 2


def test_an_epoch_of_the_full_data_set_is_390_steps():
    class Count:
        def __len__(self) -> int:
            return 100_000

    assert len(StepLoader(Count(), 256, seed=0)) == 390


def test_the_next_batch_is_read_while_this_one_is_in_use(store):
    """The consumer asks for one batch; the second is read all the same, by another thread, and the third is not."""
    reads = []
    second = threading.Event()

    class Watched(type(store)):
        def gather(self, indices):
            reads.append(threading.current_thread().name)
            if len(reads) == 2:
                second.set()
            return super().gather(indices)

    batches = iter(StepLoader(Watched(**vars(store)), 16, seed=0))
    next(batches)
    assert second.wait(timeout=60)
    assert len(reads) == 2
    assert threading.current_thread().name not in reads
    batches.close()  # a run that ends in mid-epoch leaves no thread behind
    assert not any(thread.name in reads for thread in threading.enumerate())
