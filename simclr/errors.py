"""The one exception type whose message is written for the person at the keyboard, and what counts as a number."""

import sys
from typing import TypeGuard


class InputError(ValueError):
    """Something the user gave (a value, a file, a data set) cannot be used.

    The message names the thing and the remedy. The commands print it without a traceback and exit with status 1; any
    other exception is a bug of ours and keeps its traceback.
    """


def is_whole(value: object) -> TypeGuard[int]:
    """Whether `value` is an int. True and False, which Python counts among them, are not meant as numbers."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether `value` is a number that a float can hold: no NaN, no infinity, no bool, no string."""
    return (is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max
