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


def test_sizes_change_with_the_run_and_small_views_stay_small():
    augmentation = Augmentation([{}, {"size": RECIPE.size // 2}], size_until=[[0.5, 32], [0.75, 48]], **SETTINGS)
    sizes = {progress: [recipe.size for recipe in augmentation.at(progress)] for progress in (0, 0.49, 0.5, 0.74, 0.75)}
    assert sizes == {0: [32, 16], 0.49: [32, 16], 0.5: [48, 24], 0.74: [48, 24], 0.75: [64, 32]}
    assert augmentation.sizes == {16, 24, 32, 48, 64}
    assert [replace(recipe, size=RECIPE.size) for recipe in augmentation.at(0)] == [RECIPE] * 2


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
        (2, {"size_until": 32}, r"^size_until=32 is not usable: list up to which share"),
        (2, {"size_until": []}, r"^size_until=\[\] is not usable"),
        (2, {"size_until": [0.5, 32]}, r"^size_until=\[0.5, 32\] is not usable"),
        (2, {"size_until": [[0, 32]]}, r"^size_until=.* is not usable"),
        (2, {"size_until": [[1, 32]]}, r"^size_until=.* is not usable"),
        (2, {"size_until": [[0.5, 32], [0.5, 48]]}, r"^size_until=.* is not usable"),
        (2, {"size_until": [[0.5, 32.5]]}, r"^size_until=.* is not usable"),
        (2, {"size_until": [[0.5, 9]], "blur_kernel": 23}, r"^size_until has 9 pixels, at which .*blur_kernel=23"),
        (2, {"size_until": [[0.5, 2]]}, r"^size_until has 2 pixels, at which size=2"),
    ],
)
def test_what_cannot_be_is_named_with_its_view(views, settings, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(views, **(SETTINGS | settings))
