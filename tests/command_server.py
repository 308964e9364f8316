"""Starts the commands that it is told, each in a process of its own that need not import torch again: it forks.

Importing the libraries takes six seconds, longer than most tests. conftest.py starts one for each test process.
A line of its input is a command, as JSON with the arguments of `become`. Two files beside its output tell of it, whole
from their first moment: `.pid` as soon as it has one, `.status` with its exit status at its end.
"""

import importlib
import json
import os
import runpy
import signal
import sys


def become(program: list[str], folder: str, environment: dict[str, str], files: str) -> None:
    """Go on as that program: a script or -m and a module, and its arguments, in `folder`, in a group of its own.

    files: where it writes to, without the `.stdout` and the `.stderr`.
    """
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    targets = ((os.devnull, os.O_RDONLY), (f"{files}.stdout", os.O_WRONLY), (f"{files}.stderr", os.O_WRONLY))
    for descriptor, (path, mode) in enumerate(targets):
        os.dup2(os.open(path, mode), descriptor)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    if program[0] == "-m":
        sys.argv, sys.path[0] = program[1:], folder
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = program, os.path.dirname(program[0])
        runpy.run_path(program[0], run_name="__main__")


def tell(path: str, number: int) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(str(number))
    os.replace(f"{path}.new", path)


def main() -> None:
    sys.path[0] = os.getcwd()  # of the checkout whose code the commands run
    for command in ("pretrain", "judge", "visualize", "report", "export"):
        importlib.import_module(f"simclr.commands.{command}")

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how those ended that wait for the commands
    for line in sys.stdin:
        request = json.loads(line)
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pid = os.fork()
        if pid == 0:
            return become(**request)
        tell(f"{request['files']}.pid", pid)
        _, status = os.waitpid(pid, 0)
        tell(f"{request['files']}.status", os.waitstatus_to_exitcode(status))
        os._exit(0)


if __name__ == "__main__":
    main()
