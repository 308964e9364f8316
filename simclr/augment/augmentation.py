"""The augmentation of a run: one recipe for each view that it makes of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from simclr.augment.recipe import Recipe
from simclr.checks import is_whole

MAX_VIEWS = 16


class Augmentation:
    """views: how many views an image gets, all by the recipe of `settings`; or a list with what is different in each.

    settings: the recipe's parameters. [{}, {"solarize_p": 0.2}] makes two views of which the second alone is solarised,
    and [{}, {"size": 32}] a large view and a small one. Raises ValueError for a parameter outside its range.
    """

    views: list[Recipe]

    def __init__(self, views: int | Sequence[Mapping[str, Any]], **settings: Any) -> None:
        self.views = [_recipe(settings, f"views[{view}].", own) for view, own in enumerate(_listed(views))]
        for view, recipe in enumerate(self.views):
            for name in ("mean", "std"):
                own, first = getattr(recipe, name), getattr(self.views[0], name)
                if own != first:
                    raise ValueError(
                        f"views[{view}].{name}={own} is not usable: all views are normalised alike ({first})"
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
