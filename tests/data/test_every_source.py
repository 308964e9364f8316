"""What every source of images keeps to: a new file in configs/data is tested with a line that says where it reads."""

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from simclr.data.store import ImageStore, Splits
from simclr.runs.build import build
from simclr.runs.compose import compose_config
from simclr.runs.configs import CONFIGS
from tests.conftest import image_bytes, tiny_imagenet_files, write_folder, write_zip
from tests.published_sets import SETS, published_md5s

SOURCES = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


@pytest.fixture(params=SOURCES)
def load(request, tmp_path, monkeypatch):
    """Opens the source anew, from files made for it."""
    own = []
    if request.param == "tiny_imagenet":
        own = [f"data.root={write_zip(tmp_path / 'tiny.zip', tiny_imagenet_files())}", "data.size=64"]
    elif request.param == "image_folder":
        images = {
            f"{label}/{i}.png": image_bytes(np.full((20, 24, 3), 9 * i + 100 * label, np.uint8))
            for label in range(2)
            for i in range(10)
        }
        own = [f"data.root={write_folder(tmp_path / 'images', images)}", "data.size=16"]
    elif request.param == "image_text":
        files = {f"{i}.png": image_bytes(np.full((20, 24, 3), 9 * i, np.uint8)) for i in range(20)}
        table = "".join(f"{i}.png,image {i}\n" for i in range(20))
        files["captions.csv"] = f"image,caption\n{table}".encode()
        own = [f"data.root={write_folder(tmp_path / 'images', files)}", "data.size=16"]
    elif request.param == "parquet":
        pixels = [image_bytes(np.full((20, 24, 3), 9 * i, np.uint8)) for i in range(20)]
        own = [f"data.root={tmp_path / 'all.parquet'}", "data.size=16"]
        parquet.write_table(pyarrow.table({"image": pixels, "label": [0, 1] * 10}), tmp_path / "all.parquet")
    elif request.param == "shapes":
        own = ["data.train_count=30", "data.val_count=10", "data.size=16"]
    elif request.param in SETS:
        files = SETS[request.param]()
        for change in published_md5s(files):
            monkeypatch.setattr(*change)
        own = [f"data.root={write_folder(tmp_path / 'published', files)}"]
    config = compose_config(f"data={request.param}", *own).data
    return lambda: build(config).load()


def stores(splits: Splits) -> list[ImageStore]:
    return [splits.pretrain, splits.train, *([] if splits.val is None else [splits.val])]


def test_images_and_what_is_known_of_them_go_together(load):
    for store in stores(load()):
        assert len(store) > 0
        assert store.pixels.dtype == np.uint8
        assert store.pixels.shape[1] == store.pixels.shape[2]
        assert store.gather(np.arange(1)).shape == (1, *store.pixels.shape[1:])
        for column in store.columns.values():
            assert len(column.values) == len(store)
        assert len(store.digests) == len(store)


def test_labels_index_the_names_of_classes(load):
    splits = load()
    if splits.train.labels is None:
        assert "captions" in splits.train.columns  # a source has either
        return
    assert len(splits.train.classes) == len(set(splits.train.classes)) > 1
    assert set(splits.train.labels) <= set(range(len(splits.train.classes)))
    assert splits.val is None or splits.val.classes == splits.train.classes


def test_it_is_the_same_each_time_and_its_key_says_so(load):
    first, second = load(), load()
    for one, other in zip(stores(first), stores(second), strict=True):
        assert one.key == other.key
        assert np.array_equal(one.pixels[one.rows], other.pixels[other.rows])
    assert first.val is None or first.val.key != first.train.key


def test_no_validation_image_is_trained_on(load):
    splits = load()
    assert splits.val is None or not np.isin(splits.val.digests, splits.pretrain.digests).any()
