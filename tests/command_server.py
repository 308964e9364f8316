"""Runs the commands that it is told, each in a process of its own that need not import torch again: it forks.

Importing the libraries takes four seconds, longer than most tests. conftest.py starts one for each test process.
A line of its input is a command, as JSON with the arguments of `become`; the answer is a line with its exit status.
"""

import importlib
import json
import os
import runpy
import sys


def become(program: list[str], folder: str, environment: dict[str, str], stdout: str, stderr: str) -> None:
    """Go on as that program: a script or -m and a module, and its arguments, in `folder`, writing to two files."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, path, mode in ((0, os.devnull, os.O_RDONLY), (1, stdout, os.O_WRONLY), (2, stderr, os.O_WRONLY)):
        os.dup2(os.open(path, mode), descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    if program[0] == "-m":
        sys.argv, sys.path[0] = program[1:], folder
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = program, os.path.dirname(program[0])
        runpy.run_path(program[0], run_name="__main__")


def main() -> None:
    for command in ("pretrain", "judge", "visualize", "report", "export"):
        importlib.import_module(f"simclr.commands.{command}")

    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return become(**json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
