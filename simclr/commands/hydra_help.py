"""Hydra's command line on Python 3.14 and later, whose argparse refuses a help that is no string: Hydra has one.

To be deleted with the first Hydra that has none: https://github.com/facebookresearch/hydra/issues/3121
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

from hydra._internal import utils


class _Parser(argparse.ArgumentParser):
    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if not isinstance(settings.get("help"), str | None):
            # How to install completions: an object that becomes a text where it is shown. The text holds the name of
            # the command, in which argparse takes a % for its own.
            settings["help"] = str(settings["help"]).replace("%", "%%")
        return super().add_argument(*names, **settings)


def help_in_strings() -> None:
    """Let Hydra build its parser so that the help of every argument is a string, whatever the Python."""
    utils.argparse = SimpleNamespace(**vars(argparse) | {"ArgumentParser": _Parser})  # type: ignore[assignment]
