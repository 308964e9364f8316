"""Procedural images: ten shapes under nuisance colour, position, scale, rotation and texture. Nothing to download.

An image scatters copies of one shape, each copy with its own colour, place, size and turn, over a striped ground. What
two crops of it share is the shape; so a method that makes views of an image alike has to find the shape, and k-NN
accuracy on it shows whether it did. (With one copy in an image, its colour and place tell images apart as well as
its shape does, and a contrastive loss learns those instead.)
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from simclr.checks import MAX_SEED, is_whole
from simclr.data import columns
from simclr.data.store import ImageStore, Splits, check_size

Field = np.ndarray  # float32 [B, H, W]: coordinates, or distance to an outline (negative inside)

CHUNK, CHUNK_PIXELS = 512, 2**21  # images, and pixels in all, rendered at once; bounds the memory
MAX_BYTES = 2**34  # that the images of a split may take
LATTICE = 2  # copies of the shape along each side of an image
TURN = np.pi / 4  # a copy is turned by at most this, either way
UNIFORMS = 9 + 7 * (LATTICE + 1) ** 2  # random numbers an image: ground and shift, then each copy


def _polygon(x: Field, y: Field, corners: int, inradius: float) -> Field:
    angles = 2 * np.pi * (np.arange(corners) + 0.5) / corners
    return np.max([x * np.cos(a) + y * np.sin(a) for a in angles], axis=0) - inradius


def _box(x: Field, y: Field, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _star(x: Field, y: Field) -> Field:
    turn = (np.arctan2(y, x) * 5 / (2 * np.pi)) % 1
    return (np.hypot(x, y) - (0.42 + 0.58 * np.abs(2 * turn - 1))) * 0.6


def _heart(x: Field, y: Field) -> Field:
    y = y + 0.2
    lobes = np.hypot(np.abs(x) - 0.375, y - 0.375) - 0.375 * np.sqrt(2)
    return np.minimum((np.abs(x) + np.abs(y) - 0.75) / np.sqrt(2), lobes)


def _arrow(x: Field, y: Field) -> Field:
    head = np.maximum(-x, (x + np.abs(y)) / np.sqrt(2) - 0.62)
    return np.minimum(head, _box(x + 0.45, y, 0.5, 0.2))


# Each fits the unit disc and has its own silhouette under any rotation.
SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.85,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.72) - 0.2,
    "triangle": lambda x, y: _polygon(x, y, 3, 0.5),
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95)),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, 0.75 - np.hypot(x - 0.45, y)),
    "heart": _heart,
    "bar": lambda x, y: _box(x, y, 0.95, 0.26),
    "arrow": _arrow,
}


# What captions call them; each copy of an image has its colour, nearly.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.8, 0.1, 0.1),
    "green": (0.1, 0.55, 0.15),
    "blue": (0.1, 0.2, 0.8),
    "purple": (0.5, 0.1, 0.6),
    "orange": (0.9, 0.5, 0.1),
    "brown": (0.4, 0.22, 0.08),
    "grey": (0.42, 0.42, 0.42),
    "black": (0.08, 0.08, 0.08),
}
NEARLY = 0.08  # of the values, either way
PLURALS = {"cross": "crosses"}
SENTENCES = (
    "a {colour} {shape}",
    "a {shape} in {colour}",
    "an image of a {shape}, all {colour}",
    "{colour} {shapes}",
    "some {colour} {shapes} on a bright ground",
    "{shapes}, all of them {colour}",
)
CAPTIONS = 3  # of an image


class Shapes:
    """`train_count` training and `val_count` validation images of size × size pixels, ten classes in equal shares.

    Image i of a split is a function of the seed, the split and i: a larger count adds images and changes none.
    captions: whether all copies of an image have one colour, of eight, and the image three sentences that name it and
    the shape. Raises ValueError for counts, size (pixels) or seed out of range.
    """

    name = "procedural images of ten shapes"
    licence = "The images are made by this project, and free."

    def __init__(self, train_count: int, val_count: int, size: int, seed: int, captions: bool = False) -> None:
        check_size(size)
        for name, value in (("train_count", train_count), ("val_count", val_count)):
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name}={value} is not usable; it is a whole number, 1 or more")
            if value * size * size * 3 > MAX_BYTES:
                raise ValueError(f"{name}={value} images of size={size} take too much memory; use fewer")
        if not is_whole(seed) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed={seed} is not usable; it is a whole number, 0 to {MAX_SEED}")
        self.counts = {"train": train_count, "val": val_count}
        if not isinstance(captions, bool):
            raise ValueError(f"captions={captions} is not usable; choose true or false")
        self.size, self.seed, self.captions = size, seed, captions

    def load(self) -> Splits:
        """Render both splits into memory."""
        return Splits.of(*(self._render(stream, split) for stream, split in enumerate(self.counts)))

    def _render(self, stream: int, split: str) -> ImageStore:
        count = self.counts[split]
        labels = np.arange(count) % len(SHAPES)
        unit = np.random.default_rng([self.seed, stream]).random((count, UNIFORMS), np.float32)
        colours, sentences = self._described(stream, labels)
        pixels = np.empty((count, self.size, self.size, 3), np.uint8)
        masks = np.empty(pixels.shape[:3], np.uint8)
        at_once = max(1, min(CHUNK, CHUNK_PIXELS // self.size**2))
        for label, outline in enumerate(SHAPES.values()):
            members = np.flatnonzero(labels == label)
            for start in range(0, len(members), at_once):
                chunk = members[start : start + at_once]
                own = None if colours is None else colours[chunk]
                pixels[chunk], covered = _draw(unit[chunk], self.size, outline, own)
                masks[chunk] = covered * (label + 1)
        # Not of the pixels: another processor may round one of them another way, and these are the same images.
        key = f"shapes {split} {count} {self.size} px seed {self.seed}"
        known = {"labels": columns.labels(labels, list(SHAPES)), "masks": columns.masks(masks, ["ground", *SHAPES])}
        if sentences:
            key, known = f"{key} captions", known | {"captions": columns.captions(sentences)}
        return ImageStore.of(pixels, known, key=key)

    def _described(self, stream: int, labels: np.ndarray) -> tuple[np.ndarray | None, list[list[str]]]:
        """The colour of every image, [N, 3], and its sentences; None and no sentences where they have no captions."""
        if not self.captions:
            return None, []
        unit = np.random.default_rng([self.seed, stream, 1]).random((len(labels), 1 + len(SENTENCES)))
        colour = (unit[:, 0] * len(COLOURS)).astype(int)
        names, shapes = list(COLOURS), list(SHAPES)
        sentences = []
        for image, label in enumerate(labels):
            shape = shapes[label]
            words = {"colour": names[colour[image]], "shape": shape, "shapes": PLURALS.get(shape, f"{shape}s")}
            chosen = np.sort(np.argsort(unit[image, 1:])[:CAPTIONS])
            sentences.append([_with_article(SENTENCES[sentence].format(**words)) for sentence in chosen])
        return np.array(list(COLOURS.values()))[colour], sentences


def _with_article(sentence: str) -> str:
    """With "an" before a vowel."""
    return re.sub(r"\ba (?=[aeiou])", "an ", sentence)


def _draw(
    unit: np.ndarray, size: int, outline: Callable[[Field, Field], Field], colours: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, size, size, 3] of one shape, and where it is: bool [B, size, size].

    unit: [B, UNIFORMS], their uniform random numbers. colours: [B, 3], nearly that of all copies in an image; None:
    each copy has its own.
    """
    numbers = iter(np.moveaxis(unit, 1, 0)[:, :, None, None])

    def uniform(low: float, high: float) -> np.ndarray:
        return low + (high - low) * next(numbers)

    def colour(low: float, high: float) -> np.ndarray:
        return np.stack([uniform(low, high) for _ in range(3)], axis=-1)

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1  # the image spans [-1, 1]
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    direction, phase = uniform(0, np.pi), uniform(0, 2 * np.pi)
    along = grid_x * np.cos(direction) + grid_y * np.sin(direction)
    stripes = np.sin(along * uniform(3, 16) + phase) * uniform(0, 0.1)
    image = colour(0.6, 1) + stripes[..., None]
    # A lattice of copies with a margin of one, moved as a whole by up to one cell, each copy moved a little more.
    cell, covered = 2 / LATTICE, np.zeros(image.shape[:3], bool)
    shift_x, shift_y = uniform(-1, 0) * cell, uniform(-1, 0) * cell
    for row in range(LATTICE + 1):
        for column in range(LATTICE + 1):
            x = grid_x + 1 - (column + 0.5 + uniform(-0.1, 0.1)) * cell - shift_x
            y = grid_y + 1 - (row + 0.5 + uniform(-0.1, 0.1)) * cell - shift_y
            radius, turn = uniform(0.3, 0.475) * cell, uniform(-TURN, TURN)
            cos, sin = np.cos(turn) / radius, np.sin(turn) / radius
            distance = outline(x * cos + y * sin, y * cos - x * sin) * radius  # in half image widths
            covered |= distance < 0
            cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]  # one pixel of anti-aliasing
            mine = None if colours is None else np.clip(colours[:, None, None] + colour(-NEARLY, NEARLY), 0, 1)
            ink = colour(0, 0.5) if mine is None else mine
            image = cover * ink + (1 - cover) * image
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), covered
