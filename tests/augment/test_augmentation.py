"""A recipe for each view: the same for all, or with what is different in each."""

from dataclasses import asdict, replace

import pytest

from simclr.augment.augmentation import Augmentation
from tests.augment.test_engines import RECIPE

SETTINGS = asdict(RECIPE)


def test_a_number_of_views_shares_one_recipe():
    assert Augmentation(3, **SETTINGS).views == [RECIPE] * 3


def test_what_is_listed_is_different_in_that_view_alone():
    views = [{}, {"solarize_p": 0.5}, {"size": 32, "crop_scale": [0.1, 0.3]}]
    expected = [RECIPE, replace(RECIPE, solarize_p=0.5), replace(RECIPE, size=32, crop_scale=[0.1, 0.3])]
    assert Augmentation(views, **SETTINGS).views == expected


@pytest.mark.parametrize(
    ("views", "settings", "message"),
    [
        (0, {}, r"views=0 is not usable: write how many"),
        (17, {}, r"views=17 is not usable"),
        (True, {}, r"views=True is not usable"),
        ([], {}, r"views=\[\] is not usable"),
        ([{}, 2], {}, r"views=\[\{\}, 2\] is not usable"),
        ([{}, {"tint": 1}], {}, r"^views\[1\]\.tint=1 is not usable: a recipe has size, crop_scale, "),
        (2, {"tint": 1}, r"^tint=1 is not usable: a recipe has size"),
        ([{}, {"hue": 0.7}], {}, r"^views\[1\]\.hue=0.7 is not usable"),
        ([{}, {}], {"hue": 0.7}, r"^hue=0.7 is not usable"),
        (
            [{}, {"mean": [0.5] * 3, "std": [0.2] * 3}],
            {},
            r"^views\[1\]\.mean=\[0.5, 0.5, 0.5\] is not usable: all views are",
        ),
        ([{"size": 4}], {"blur_kernel": 9}, r"^views\[0\]\.size=4 is not usable"),
    ],
)
def test_what_cannot_be_is_named_with_its_view(views, settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(views, **(SETTINGS | settings))
