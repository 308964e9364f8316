"""What argparse asks of a help: from Python 3.14 on that it expands, from 3.15 on that it is a string for `re`."""

import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY, environment

# Each argument is checked as it is added, on this Python as on those; and the command may have any name.
CHECKED = """
import argparse, runpy, sys
add = argparse._ActionsContainer.add_argument
def add_checked(self, *names, **settings):
    action = add(self, *names, **settings)
    if action.help and isinstance(self, argparse.ArgumentParser):
        try:
            if not isinstance(action.help, str):
                raise TypeError(f"expected string or bytes-like object, got {type(action.help)}")
            self._get_formatter()._expand_help(action)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError("badly formed help string") from error
    return action
argparse._ActionsContainer.add_argument = add_checked
program, sys.argv = sys.argv[1], ["100 % done/" + sys.argv[1], *sys.argv[2:]]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train.py", "--help"), "python train.py experiment=quickstart"),
        (("linear_eval.py", "--help"), "python linear_eval.py"),
        (("simclr.visualize", "--help"), "python -m simclr.visualize"),
        (("train.py", "--hydra-help"), "--shell-completion,-sc : Install or Uninstall shell completion:\n    Bash"),
        (("train.py", "--shell-completion", "install=bash"), "COMP_WORDBREAKS"),
    ],
)
def test_commands_pass_the_check_of_newer_pythons(arguments, said):
    done = subprocess.run(
        [sys.executable, "-c", CHECKED, *arguments], cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
    assert done.stderr == ""
