"""The augmentation of a run: one recipe for each view that it makes of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

from simclr.augment.recipe import Recipe
from simclr.checks import is_finite, is_whole

MAX_VIEWS = 16


class Augmentation:
    """views: how many views an image gets, all by the recipe of `settings`; or a list with what is different in each.

    settings: the recipe's parameters. [{}, {"solarize_p": 0.2}] makes two views of which the second alone is solarised,
    and [{}, {"size": 32}] a large view and a small one.
    size_until: progressive resizing (Tan & Le 2021, section 4; that it ends at the full size suits batch norm, Touvron
    et al. 2019). [[0.5, 32], [0.8, 48]] makes views of 32 pixels for the first half of the run and of 48 up to eight
    tenths of it; then, as all along where it is None, of `size`. Views of another size change in proportion.
    Raises ValueError for a parameter outside its range.
    """

    views: list[Recipe]  # at the run's end; all along, unless their size changes
    stages: list[tuple[float, list[Recipe]]]

    def __init__(
        self,
        views: int | Sequence[Mapping[str, Any]],
        size_until: Sequence[tuple[float, int]] | None = None,
        **settings: Any,
    ) -> None:
        self.views = [_recipe(settings, f"views[{view}].", own) for view, own in enumerate(_listed(views))]
        for view, recipe in enumerate(self.views):
            for name in ("mean", "std"):
                own, first = getattr(recipe, name), getattr(self.views[0], name)
                if own != first:
                    raise ValueError(
                        f"views[{view}].{name}={own} is not usable: all views are normalised alike ({first})"
                    )
        _check_size_until(size_until)
        smaller = [(until, self._scaled(size, settings["size"])) for until, size in size_until or ()]
        self.stages = [*smaller, (1.0, self.views)]  # up to which share of the run views have which recipes

    def at(self, progress: float) -> list[Recipe]:
        """The views' recipes in a step before which `progress` of the run lies, from 0 in the first to less than 1."""
        return next((views for until, views in self.stages if progress < until), self.views)

    @property
    def sizes(self) -> set[int]:
        """Every size that a view has in the course of the run, in pixels."""
        return {recipe.size for _, views in self.stages for recipe in views}

    def _scaled(self, size: int, full: int) -> list[Recipe]:
        try:
            return [replace(recipe, size=round(recipe.size * size / full)) for recipe in self.views]
        except ValueError as error:
            raise ValueError(f"size_until has {size} pixels, at which {error}") from error


def _check_size_until(size_until: object) -> None:
    if size_until is None:
        return
    pairs = size_until if isinstance(size_until, list | tuple) else []
    usable = all(
        isinstance(pair, list | tuple) and len(pair) == 2 and is_finite(pair[0]) and is_whole(pair[1]) for pair in pairs
    )
    if not (pairs and usable) or any(later <= share for share, later in pairwise([0, *(p[0] for p in pairs), 1])):
        raise ValueError(
            f"size_until={size_until} is not usable: list up to which share of the run views have how many pixels, as "
            "[[0.5, 32], [0.8, 48]], with shares that rise between 0 and 1; or null"
        )


def _listed(views: object) -> list[Mapping[str, Any]]:
    usable = f"write how many views an image gets, 1 to {MAX_VIEWS}, or list what is different in each, as [{{}}, {{}}]"
    listed = [{}] * views if is_whole(views) and 1 <= views <= MAX_VIEWS else views
    if (
        not isinstance(listed, list)
        or not 1 <= len(listed) <= MAX_VIEWS
        or not all(isinstance(o, dict) for o in listed)
    ):
        raise ValueError(f"views={views} is not usable: {usable}")
    return listed


def _recipe(settings: Mapping[str, Any], view: str, own: Mapping[str, Any]) -> Recipe:
    """The recipe of one view, whose `own` settings come before those of all."""
    known = [field.name for field in fields(Recipe)]
    for name, value in (*settings.items(), *own.items()):
        if name not in known:
            where = view if name in own else ""
            raise ValueError(f"{where}{name}={value} is not usable: a recipe has {', '.join(known)}")
    try:
        return Recipe(**{**settings, **own})
    except ValueError as error:
        name = str(error).partition("=")[0]
        raise ValueError(f"{view if name in own else ''}{error}") from error
