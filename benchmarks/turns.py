"""How several training programs, each a process of its own, take turns on one machine: one works, the others wait."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.measure import finished, of_process, peak_memory

Command = Callable[[int, str], list[str]]  # of the pipe that gives it its turns, and a folder that it may write to

STAGES = ("wait for data", "augment", "forward", "backward", "optimiser")


@dataclass
class Turn:
    """One turn of one program. `warm` steps are not counted, `steps` are, and `split` more are timed by stage."""

    warm: int
    steps: int
    split: int
    seconds: float = 0.0  # of the counted steps together
    stages: dict[str, float] = field(default_factory=dict)  # seconds a step
    memory: dict[str, float] = field(default_factory=dict)  # GB


class Pace(Protocol):
    """What a training loop asks: when it may begin, whether it goes on after a step."""

    def wait(self) -> bool: ...

    def stage(self, name: str) -> None: ...

    def step_done(self) -> bool: ...


class Player:
    """The side of a training program: call `step_done` after every step and `stage` between the parts of one.

    pipe: file descriptor of the pipe to the program that gives the turns.
    """

    def __init__(self, pipe: int, device: torch.device) -> None:
        self.device = device
        self.connection: Connection = Connection(pipe)
        self.done, self.mark = 0, 0.0
        self.turn: Turn | None = None

    def wait(self) -> bool:
        """Wait for the next turn; False where there is none."""
        message: dict[str, Any] | None = self.connection.recv()
        self.turn, self.done = (None if message is None else Turn(**message)), 0
        self.started = self.mark = time.perf_counter()
        return self.turn is not None

    @property
    def splitting(self) -> bool:
        return self.turn is not None and self.done >= self.turn.warm + self.turn.steps

    def stage(self, name: str) -> None:
        """What was done since the last call belongs to stage `name`."""
        if self.splitting:
            assert self.turn is not None
            now = finished(self.device)
            self.turn.stages[name] = self.turn.stages.get(name, 0.0) + (now - self.mark) / self.turn.split
            self.mark = now

    def step_done(self) -> bool:
        """False where the program is to end."""
        assert self.turn is not None
        self.done += 1
        if self.done == self.turn.warm:
            self.started = finished(self.device)
        if self.done == self.turn.warm + self.turn.steps:
            self.mark = finished(self.device)
            self.turn.seconds = self.mark - self.started
        if self.done == self.turn.warm + self.turn.steps + self.turn.split:
            self.turn.memory = memory(self.device)
            self.connection.send(asdict(self.turn))
            return self.wait()
        return True


def memory(device: torch.device) -> dict[str, float]:
    """GB: the peak of this process and its workers, how much of it is the mapped image file, and the GPU's peak."""
    pids = [os.getpid()]
    for task in Path("/proc/self/task").glob("*/children"):
        pids += [int(pid) for pid in task.read_text(encoding="utf-8").split()]
    peak, mapped = 0.0, 0.0
    for pid in pids:
        peak += peak_memory(pid)
        mapped = max(mapped, of_process("RssFile", pid))
    result = {"peak": peak, "of it mapped files": mapped}
    if device.type == "cuda":
        result["on the GPU"] = torch.cuda.max_memory_allocated(device) / 1e9
    return result


def pre_training(overrides: list[str]) -> Command:
    """train.py with these overrides, doing nothing but train."""
    return lambda pipe, folder: [
        sys.executable,
        "-m",
        "simclr.commands.train",
        *overrides,
        f"output_root={folder}",
        "epochs=1000",
        "checkpoint_minutes=1e6",
        "callbacks.online_knn=null",
        "+callbacks.gate._target_=benchmarks.gate.Gate",
        f"+callbacks.gate.pipe={pipe}",
    ]


def give(player: Connection, turn: Turn) -> Turn:
    """Let a program work, the others waiting, and return what it measured."""
    player.send(asdict(turn))
    return Turn(**player.recv())


@contextmanager
def taking_turns(commands: Mapping[str, Command]) -> Iterator[dict[str, Connection]]:
    """Start the programs, each waiting for its turn; end them on leaving. What they print is shown where one fails."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = {name: Path(folder, f"{number}.log") for number, name in enumerate(commands)}
        players = {}
        for number, (name, command) in enumerate(commands.items()):
            ours, theirs = Pipe()
            pipe = theirs.fileno()
            log = stack.enter_context(logs[name].open("w", encoding="utf-8"))
            process = subprocess.Popen(command(pipe, f"{folder}/{number}"), pass_fds=[pipe], stdout=log, stderr=log)
            theirs.close()
            stack.callback(process.wait)
            players[name] = stack.enter_context(ours)
        try:
            yield players
            for player in players.values():
                player.send(None)
        except (EOFError, ConnectionError):
            for name, path in logs.items():
                print(f"{name} said:", *path.read_text(encoding="utf-8").splitlines()[-5:], sep="\n  ", file=sys.stderr)
            raise SystemExit("error: a program ended before its time; see above") from None
