"""What the captions of procedural images say is what can be seen in them."""

import re

import numpy as np

from simclr.data.shapes import COLOURS, PLURALS, SENTENCES, Shapes

NAMES = "|".join(COLOURS)


def test_captions_name_the_shape_and_the_colour_that_is_seen():
    store = Shapes(200, 10, 48, seed=3, captions=True).load().train
    column, inks = store.columns["captions"], np.array(list(COLOURS.values()))
    right = 0
    for image, (start, end) in enumerate(column.values):
        texts = column.names[start:end]
        shape = store.classes[store.labels[image]]
        assert len(set(texts)) == 3
        (colour,) = {re.search(rf"\b({NAMES})\b", text)[1] for text in texts}
        for text in texts:
            assert re.search(rf"\b({shape}|{PLURALS.get(shape, f'{shape}s')})\b", text)
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
        pixels = store.pixels[store.rows[image]].reshape(-1, 3) / 255
        distance = np.abs(pixels[:, None] - inks).max(axis=2)
        drawn = (distance < 0.09) & (pixels.min(axis=1) < 0.55)[:, None]  # the ground is brighter
        right += int(drawn.sum(axis=0).argmax() == list(COLOURS).index(colour))
    assert right >= 190


def test_a_larger_count_adds_images_and_changes_none():
    small, large = (Shapes(count, 10, 16, seed=0, captions=True).load().train for count in (30, 50))
    assert np.array_equal(small.pixels, large.pixels[:30])
    texts = [
        [store.columns["captions"].names[a:b] for a, b in store.columns["captions"].values[:30]]
        for store in (small, large)
    ]
    assert texts[0] == texts[1]
    assert small.key != Shapes(30, 10, 16, seed=0).load().train.key
    assert len({sentence.count("{") for sentence in SENTENCES}) == 1
