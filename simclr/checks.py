"""What counts as a number in a configuration, and bounds that more than one room keeps to."""

import sys
from typing import TypeGuard

MIN_SIZE, MAX_SIZE = 8, 4096  # pixels along the side of a stored image, and of a view
MAX_SEED = 2**32 - 1  # NumPy takes no larger one


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is an int. True and False, which Python counts among them, are not meant as numbers."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a number that a float can hold: no NaN, no infinity, no bool, no string."""
    return (is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max
