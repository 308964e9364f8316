"""Where stores lie when the obvious place is taken or closed."""

import os
from pathlib import Path

import numpy as np
import pytest

from simclr.data.folder import ImageFolder
from simclr.errors import InputError
from tests.conftest import image_bytes, write_folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "simclr-lab"


def images(path: Path, shade: int) -> Path:
    return write_folder(path, {"1.png": image_bytes(np.full((8, 8, 3), shade, np.uint8))})


def shade_of(root: Path, store: Path | None = None) -> int:
    source = ImageFolder(str(root), 8, 0.1, None if store is None else str(store))
    return int(source.load().train.pixels[0, 0, 0, 0])


def test_two_sources_of_one_name_keep_a_store_each(tmp_path, caplog):
    one, two = images(tmp_path / "a" / "images", 10), images(tmp_path / "b" / "images", 20)
    with caplog.at_level("INFO"):
        for _ in range(3):
            assert (shade_of(one, tmp_path / "store"), shade_of(two, tmp_path / "store")) == (10, 20)
    assert caplog.text.count("Decoded 1 images into") == 2
    names = sorted(path.name for path in (tmp_path / "store").glob("*.store-8"))
    assert len(names) == 2
    assert "images.store-8" in names
    images(tmp_path / "a" / "images", 30)  # replaces its own, and not the other's
    assert (shade_of(one, tmp_path / "store"), shade_of(two, tmp_path / "store")) == (30, 20)
    assert len(list((tmp_path / "store").glob("*.store-8"))) == 2


def test_a_source_that_has_moved_finds_its_store(tmp_path, caplog):
    shade_of(images(tmp_path / "a" / "images", 10), tmp_path / "store")
    (tmp_path / "a").rename(tmp_path / "b")
    with caplog.at_level("INFO"):
        assert shade_of(tmp_path / "b" / "images", tmp_path / "store") == 10
    assert "Decoded" not in caplog.text


def test_a_store_that_cannot_lie_beside_its_source_lies_in_the_cache(tmp_path, cache, caplog):
    """So deep that the path of a store beside it is longer than the system takes: closed to root, too."""
    deep = []
    for top in ("a", "b"):
        parent = tmp_path / top
        while len(str(parent)) < 4082:
            parent /= "d" * max(1, min(200, 4082 - len(str(parent)) - 1))
        deep.append(parent)
    one, two = images(deep[0] / "im", 10), images(deep[1] / "im", 20)
    for _ in range(2):  # built, then read back
        with caplog.at_level("INFO"):
            assert (shade_of(one), shade_of(two)) == (10, 20)
    assert caplog.text.count("Decoded 1 images into") == 2
    assert caplog.text.count(f"The decoded images lie in {cache}") == 4
    assert "data.store=FOLDER keeps them elsewhere" in caplog.text
    assert len(list(cache.glob("im-*.store-8"))) == 2
    with pytest.raises(InputError, match=r"cannot write the image store .*File name too long"):
        shade_of(one, one.parent)  # what is asked for is not replaced
    assert [path.name for path in one.parent.iterdir()] == ["im"]


def test_the_home_is_found_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "mine", 10)
    assert shade_of(Path("~/mine"), Path("~/store")) == 10
    assert (tmp_path / "store" / "mine.store-8").is_dir()
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_data_that_may_only_be_read(tmp_path, cache, caplog):
    root = images(tmp_path / "shared" / "images", 10)
    root.parent.chmod(0o500)
    assert shade_of(root) == 10
    assert len(list(cache.glob("images-*.store-8"))) == 1
    root.parent.chmod(0o700)
