"""Captions made of classes: what they say, and that the images stay the same to a run."""

import numpy as np
import pytest

from simclr.data.store import ImageStore, Splits
from simclr.data.templates import Templates
from simclr.data.tiny_imagenet import TinyImageNet
from simclr.data.words import spoken
from simclr.errors import InputError
from tests.conftest import tiny_imagenet_files, write_folder, write_zip

SENTENCES = ["a photo of a {}", "{}!"]


def test_each_image_has_each_sentence_about_its_class_in_words(tmp_path):
    words = {"n01": "goldfish, Carassius auratus", "n02": "great white shark", "n03": "hen"}
    files = tiny_imagenet_files() | {"words.txt": "".join(f"{w}\t{text}\n" for w, text in words.items()).encode()}
    root = write_zip(tmp_path / "tiny.zip", files)
    plain = TinyImageNet(str(root), 16).load()
    splits = Templates(TinyImageNet(str(root), 16), SENTENCES, str(root)).load()
    column = splits.train.columns["captions"]
    assert splits.train.labels is not None
    for label, (start, end) in zip(splits.train.labels, column.values, strict=True):
        word = words[splits.train.classes[label]].split(",")[0]
        assert column.names[start:end] == (f"a photo of a {word}", f"{word}!")
    assert (splits.train.key, splits.pretrain.key) == (plain.train.key, plain.pretrain.key)
    assert splits.train is splits.pretrain
    assert splits.val is not None
    assert "captions" not in splits.val.columns  # all images of a class would have the same


@pytest.mark.parametrize("form", ["file", "folder", "zip", "none", "other"])
def test_words_are_found_in_a_file_a_folder_or_a_zip(tmp_path, form):
    files = {"tiny/words.txt": b"n1\tgoldfish, Carassius\nn2\tgreat white shark\n"}
    if form == "zip":
        place = write_zip(tmp_path / "all.zip", files)
    elif form == "other":
        place = write_zip(tmp_path / "all.zip", {"tiny/other.txt": b"n1\tno\n"})
    else:
        place = write_folder(tmp_path / "all", files)
    place = place / "tiny" / "words.txt" if form == "file" else place
    found = spoken(["n1", "n2", "maple_tree"], None if form == "none" else place)
    known = ["n1", "n2"] if form in ("none", "other") else ["goldfish", "great white shark"]
    assert found == [*known, "maple tree"]


def test_images_without_labels_have_no_class_to_speak_of():
    class Bare:
        def load(self) -> Splits:
            return Splits.of(ImageStore.of(np.zeros((4, 8, 8, 3), np.uint8)), None)

    with pytest.raises(InputError, match=r"captions=templates .* these images have no labels"):
        Templates(Bare(), SENTENCES).load()
