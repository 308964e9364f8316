"""Procedural pictures: ten shapes under nuisance colour, position, scale, rotation and texture. Nothing to download.

Colour, place and texture say nothing about the class, so a representation that separates the classes has learned
shape; an untrained network, which sees mostly colour, hardly does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simclr.data.store import ImageStore, Pictures
from simclr.errors import InputError

Field = np.ndarray  # float32 [B, H, W]: coordinates, or distance to an outline (negative inside)

CHUNK = 512  # pictures rendered at once; bounds the memory


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
    """`train_count` training and `val_count` validation pictures of size × size pixels, ten classes in equal shares.

    Picture i of a split is a function of the seed, the split and i: a larger count adds pictures and changes none.
    """

    def __init__(self, train_count: int, val_count: int, size: int, seed: int) -> None:
        for name, value, least in (("train_count", train_count, 1), ("val_count", val_count, 1), ("size", size, 8)):
            if value < least:
                raise InputError(f"data.{name}={value} is too small; use {least} or more")
        self.counts = {"train": train_count, "val": val_count}
        self.size, self.seed = size, seed

    def load(self) -> Pictures:
        """Render both splits into memory."""
        return Pictures(*(self._render(stream, split) for stream, split in enumerate(self.counts)))

    def _render(self, stream: int, split: str) -> ImageStore:
        count = self.counts[split]
        labels = np.arange(count) % len(SHAPES)
        unit = np.random.default_rng([self.seed, stream]).random((count, 18), np.float32)
        pixels = np.empty((count, self.size, self.size, 3), np.uint8)
        for label, outline in enumerate(SHAPES.values()):
            members = np.flatnonzero(labels == label)
            for start in range(0, len(members), CHUNK):
                chunk = members[start : start + CHUNK]
                pixels[chunk] = _draw(unit[chunk], self.size, outline)
        key = f"shapes {split} {count} {self.size} px seed {self.seed}"
        return ImageStore.of(pixels, labels, classes=list(SHAPES), key=key)


def _draw(unit: np.ndarray, size: int, outline: Callable[[Field, Field], Field]) -> np.ndarray:
    """Pictures uint8 [B, size, size, 3] of one shape; unit [B, 18] holds their uniform random numbers."""

    def spread(column: int, low: float, high: float) -> np.ndarray:
        return (low + (high - low) * unit[:, column])[:, None, None]

    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1  # the picture spans [-1, 1]
    grid_y, grid_x = np.meshgrid(axis, axis, indexing="ij")
    radius, angle = spread(0, 0.45, 0.8), spread(1, 0, 2 * np.pi)
    x = grid_x - spread(2, -1, 1) * (1 - radius)
    y = grid_y - spread(3, -1, 1) * (1 - radius)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    distance = outline(x * cos + y * sin, y * cos - x * sin) * radius  # in half picture widths
    cover = np.clip(0.5 - distance * size / 2, 0, 1)[..., None]  # one pixel of anti-aliasing

    def texture(column: int) -> np.ndarray:  # stripes of any direction, wavelength and phase, and a slope of light
        direction, phase = spread(column, 0, np.pi), spread(column + 1, 0, 2 * np.pi)
        along = grid_x * np.cos(direction) + grid_y * np.sin(direction)
        stripes = np.sin(along * spread(column + 2, 3, 16) + phase) * spread(column + 3, 0, 0.25)
        return (stripes + 0.15 * along)[..., None]

    back = unit[:, None, None, 4:7]
    # Each channel of the shape lies at least 0.25 from the background's, on either side of it, wrapping round.
    front = (back + 0.25 + 0.5 * unit[:, None, None, 7:10]) % 1
    picture = cover * (front + texture(10)) + (1 - cover) * (back + texture(14))
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
