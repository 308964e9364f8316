"""Procedural images: ten shapes under nuisance colour, position, scale, rotation and texture. Nothing to download.

An image scatters copies of one shape, each copy with its own colour, place, size and turn, over a striped ground. What
two crops of it share is the shape; so a method that makes views of an image alike has to find the shape, and k-NN
accuracy on it shows whether it did. (With one copy in an image, its colour and place tell images apart as well as
its shape does, and a contrastive loss learns those instead.)
"""

from __future__ import annotations

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


class Shapes:
    """`train_count` training and `val_count` validation images of size × size pixels, ten classes in equal shares.

    Image i of a split is a function of the seed, the split and i: a larger count adds images and changes none.
    Raises ValueError for counts, size (pixels) or seed out of range.
    """

    def __init__(self, train_count: int, val_count: int, size: int, seed: int) -> None:
        check_size(size)
        for name, value in (("train_count", train_count), ("val_count", val_count)):
            if not is_whole(value) or value < 1:
                raise ValueError(f"{name}={value} is not usable; it is a whole number, 1 or more")
            if value * size * size * 3 > MAX_BYTES:
                raise ValueError(f"{name}={value} images of size={size} take too much memory; use fewer")
        if not is_whole(seed) or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed={seed} is not usable; it is a whole number, 0 to {MAX_SEED}")
        self.counts = {"train": train_count, "val": val_count}
        self.size, self.seed = size, seed

    def load(self) -> Splits:
        """Render both splits into memory."""
        return Splits.of(*(self._render(stream, split) for stream, split in enumerate(self.counts)))

    def _render(self, stream: int, split: str) -> ImageStore:
        count = self.counts[split]
        labels = np.arange(count) % len(SHAPES)
        unit = np.random.default_rng([self.seed, stream]).random((count, UNIFORMS), np.float32)
        pixels = np.empty((count, self.size, self.size, 3), np.uint8)
        at_once = max(1, min(CHUNK, CHUNK_PIXELS // self.size**2))
        for label, outline in enumerate(SHAPES.values()):
            members = np.flatnonzero(labels == label)
            for start in range(0, len(members), at_once):
                chunk = members[start : start + at_once]
                pixels[chunk] = _draw(unit[chunk], self.size, outline)
        # Not of the pixels: another processor may round one of them another way, and these are the same images.
        key = f"shapes {split} {count} {self.size} px seed {self.seed}"
        return ImageStore.of(pixels, {"labels": columns.labels(labels, list(SHAPES))}, key=key)


def _draw(unit: np.ndarray, size: int, outline: Callable[[Field, Field], Field]) -> np.ndarray:
    """Images uint8 [B, size, size, 3] of one shape; unit, [B, UNIFORMS], are their uniform random numbers."""
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
    cell = 2 / LATTICE
    shift_x, shift_y = uniform(-1, 0) * cell, uniform(-1, 0) * cell
    for row in range(LATTICE + 1):
        for column in range(LATTICE + 1):
            x = grid_x + 1 - (column + 0.5 + uniform(-0.1, 0.1)) * cell - shift_x
            y = grid_y + 1 - (row + 0.5 + uniform(-0.1, 0.1)) * cell - shift_y
            radius, turn = uniform(0.3, 0.475) * cell, uniform(-TURN, TURN)
            cos, sin = np.cos(turn) / radius, np.sin(turn) / radius
            distance = outline(x * cos + y * sin, y * cos - x * sin) * radius  # in half image widths
            cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]  # one pixel of anti-aliasing
            image = cover * colour(0, 0.5) + (1 - cover) * image
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
