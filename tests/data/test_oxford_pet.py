"""Oxford-IIIT Pet: masks that lie on their animals, two archives that become one folder, and what is not whole."""

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from simclr.data.columns import UNKNOWN
from simclr.data.oxford_pet import OxfordPet
from simclr.errors import InputError
from tests.conftest import image_bytes, write_folder
from tests.published_sets import oxford_pet, write_tar


def test_masks_are_torchvisions_where_nothing_is_scaled(tmp_path):
    random, files = np.random.default_rng(0), oxford_pet()
    for name in files:
        if name.endswith((".jpg", ".png")):
            shape = (24, 24) if name.endswith(".png") else (24, 24, 3)
            values = random.integers(1, 4, shape, dtype=np.uint8)
            files[name] = image_bytes(values, "PNG" if name.endswith(".png") else "JPEG")
    splits = OxfordPet(str(write_folder(tmp_path, files)), 24).load()
    for split, store in (("trainval", splits.train), ("test", splits.val)):
        theirs = datasets.OxfordIIITPet(str(tmp_path), split, target_types="segmentation")
        assert store.columns["masks"].names == ("ground", "animal")
        for mask, (_, trimap) in zip(store.columns["masks"].values, theirs, strict=True):
            numbers = np.asarray(trimap)
            assert np.array_equal(mask == 1, numbers == 1)
            assert np.array_equal(mask == 0, numbers == 2)
            assert np.array_equal(mask == UNKNOWN, numbers == 3)


def test_a_mask_is_cut_as_its_image_is(tmp_path):
    """A bright animal, off the middle, on dark ground, in photographs that are wide or tall."""
    files = oxford_pet()
    for number, name in enumerate(name for name in list(files) if name.endswith(".jpg")):
        shape = (60, 100) if number % 2 else (90, 50)
        trimap = np.full(shape, 2, np.uint8)
        trimap[10:40, 20:45] = 1
        files[name] = image_bytes(np.repeat((250 * (trimap == 1)).astype(np.uint8)[..., None], 3, axis=2), "JPEG")
        files[name.replace("images", "annotations/trimaps").replace("jpg", "png")] = image_bytes(trimap, "PNG")
    train = OxfordPet(str(write_folder(tmp_path, files)), 32).load().train
    bright = train.gather(slice(None)).float().mean(dim=3).numpy() > 125
    assert 0.05 < bright.mean() < 0.5
    assert (bright == (train.columns["masks"].values == 1)).mean() > 0.97  # but for a line of pixels at the edge


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """Both archives on a server of our own; the folder that it serves, and one to download into."""
    files, served = oxford_pet(), tmp_path / "served"
    served.mkdir()
    for part in ("images", "annotations"):
        write_tar(
            served / f"{part}.tar.gz",
            {name.partition("/")[2]: content for name, content in files.items() if f"/{part}/" in name},
        )
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        resources = [
            (
                f"http://127.0.0.1:{server.server_port}/{part}.tar.gz",
                hashlib.md5((served / f"{part}.tar.gz").read_bytes()).hexdigest(),
            )
            for part in ("images", "annotations")
        ]
        monkeypatch.setattr(OxfordPet, "url", resources[0][0])
        monkeypatch.setattr(OxfordPet, "md5", resources[0][1])
        monkeypatch.setattr(OxfordPet, "annotations", resources[1])
        yield served, tmp_path / "data"
        server.shutdown()


def test_both_archives_are_fetched_and_become_what_torchvision_reads(at_home):
    served, root = at_home
    # What a killed command left: half of an archive unpacked, which nobody takes for the whole.
    half = root / "oxford-iiit-pet" / ".annotations.unpacking" / "annotations"
    half.mkdir(parents=True)
    (half / "trainval.txt").write_text("")
    found = OxfordPet(str(root), 16, download=True).load()
    assert len(found.train) == len(datasets.OxfordIIITPet(str(root), "trainval"))
    assert {path.name for path in (root / "oxford-iiit-pet").iterdir()} >= {"images", "annotations"}
    assert not list(root.rglob("*.tar.gz"))
    assert not list(root.rglob("*.unpacking"))
    for path in served.iterdir():
        path.unlink()
    assert OxfordPet(str(root), 16).load().train.key == found.train.key


def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(at_home, monkeypatch):
    served, root = at_home
    (served / "annotations.tar.gz").rename(served / "gone")
    monkeypatch.setattr("simclr.data.files.download.time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"annotations\.tar\.gz .*save it as .*oxford-iiit-pet/annotations\.tar\.gz;"):
        OxfordPet(str(root), 16, download=True).load()
    (served / "gone").rename(root / "oxford-iiit-pet" / "annotations.tar.gz")  # as it was told
    assert len(OxfordPet(str(root), 16, download=True).load().train) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images/Abyssinian_10.jpg": None},
            r"lacks 1 of the files that .*trainval\.txt asks for, .*Abyssinian_10\.jpg",
        ),
        ({"annotations/trimaps/Abyssinian_0.png": None}, r"lacks 1 of the files that .*test\.txt asks for"),
        ({"annotations/test.txt": None}, r"has no \S*annotations/test\.txt; fetch"),
        ({"annotations/test.txt": b""}, r"lacks 0 of the files"),
        ({"annotations/test.txt": b"Abyssinian_0 one 1 1"}, r"has no readable \S*annotations/test\.txt"),
        ({"annotations/test.txt": b"Abyssinian_0"}, r"has no readable \S*annotations/test\.txt"),
        ({"annotations/test.txt": b"../../../etc/passwd 1 1 1"}, r"lacks 2 of the files"),
        ({"annotations/trimaps/Abyssinian_0.png": b"no image"}, r"Abyssinian_0\.png in .* is no mask"),
        (
            {"annotations/trimaps/Abyssinian_0.png": image_bytes(np.full((9, 9), 7, np.uint8), "PNG")},
            r"is no mask \(other numbers than 1, 2 and 3\)",
        ),
    ],
)
def test_what_is_not_whole_is_named(tmp_path, change, message):
    files = {
        name: content for name, content in oxford_pet().items() if change.get(name.partition("/")[2], b"") is not None
    }
    files |= {f"oxford-iiit-pet/{name}": content for name, content in change.items() if content is not None}
    with pytest.raises(InputError, match=message):
        OxfordPet(str(write_folder(Path(tmp_path), files)), 16).load()
