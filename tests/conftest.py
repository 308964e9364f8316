"""Data sets made on the spot, and the commands as a user runs them."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from simclr.augment.augmentation import Augmentation
from simclr.augment.recipe import Recipe
from simclr.runs.checkpoint import last_checkpoint, load_checkpoint

# Two test processes share the cores, with the commands that they start; threads of each would wait for each other's.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent

# Small enough for a training run of seconds: 4 steps an epoch.
TINY_RUN = (
    "data=shapes",
    "data.train_count=64",
    "data.val_count=20",
    "data.size=16",
    "batch_size=16",
    "epochs=2",
    "precision=32",
)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command(program: str, *overrides: object, checkout: Path = REPOSITORY) -> list[str]:
    """program: a script of this checkout, as train.py, or a module, as benchmarks.scale."""
    start = [str(checkout / program)] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *start, *map(str, overrides)]


def environment() -> dict[str, str]:
    """One thread, no GPU, and this checkout's code in whatever processes a command starts."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}


class Started:
    """A command in a process of its own, which leads a group of them. files: where it writes to, without an ending."""

    def __init__(self, files: Path, server: "subprocess.Popen[str]") -> None:
        self.files, self.server = files, server
        self.pid = self._told("pid", 120)

    def _told(self, what: str, seconds: float) -> int:
        file, deadline = self.files.with_suffix(f".{what}"), time.monotonic() + seconds
        while not file.exists():
            assert self.server.poll() is None, "the process that starts commands is gone"
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.files), seconds)
            time.sleep(0.005)
        return int(file.read_text(encoding="utf-8"))

    def poll(self) -> int | None:
        """Its exit status; None as long as it runs."""
        file = self.files.with_suffix(".status")
        return int(file.read_text(encoding="utf-8")) if file.exists() else None

    def wait(self, timeout: float = 240) -> int:
        """Its exit status, when it has ended."""
        return self._told("status", timeout)

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Return as soon as that has happened; fail where it ends before, with what it said."""
        wait_until(happened, self, lambda: self.said)

    def send_signal(self, number: int) -> None:
        """To the whole group, as a terminal does on Ctrl-C."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """All of it, without a chance to say a word."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    @property
    def stdout(self) -> str:
        return self.files.with_suffix(".stdout").read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self.files.with_suffix(".stderr").read_text(encoding="utf-8")

    @property
    def said(self) -> str:
        return self.stdout + self.stderr


class CommandServer:
    """Starts commands through command_server.py, with the code of a checkout.

    folder: for what they print.
    """

    def __init__(self, folder: Path, checkout: Path = REPOSITORY) -> None:
        self.folder, self.checkout, self.count = folder, checkout, 0
        self.server: subprocess.Popen[str] | None = None

    def start(self, command: list[str], cwd: Path, **variables: str) -> Started:
        """command: as `command` above makes it, with its interpreter. variables: of its environment, beside others."""
        own = {"PYTHONPATH": str(self.checkout)}
        if self.server is None:
            start = [sys.executable, str(REPOSITORY / "tests" / "command_server.py")]
            self.server = subprocess.Popen(
                start, cwd=self.checkout, env=environment() | own, stdin=subprocess.PIPE, text=True
            )
        assert self.server.stdin is not None
        self.count += 1
        files = self.folder / str(self.count)
        for ending in (".stdout", ".stderr"):
            files.with_suffix(ending).touch()
        request = {
            "program": command[1:],
            "folder": str(cwd),
            "environment": environment() | own | variables,
            "files": str(files),
        }
        print(json.dumps(request), file=self.server.stdin, flush=True)
        return Started(files, self.server)

    def __call__(self, command: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
        """Start it, and wait for its end."""
        started = self.start(command, cwd)
        try:
            return subprocess.CompletedProcess(command, started.wait(600), started.stdout, started.stderr)
        except subprocess.TimeoutExpired:
            started.kill()
            raise

    def stop(self) -> None:
        """End it, and what it runs."""
        if self.server is not None:
            for process in [*psutil.Process(self.server.pid).children(recursive=True), self.server]:
                process.kill()
            self.server.communicate()
            self.server = None


@pytest.fixture(scope="session")
def command_server(tmp_path_factory) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("commands"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def start_training(command_server: CommandServer) -> Callable[..., Started]:
    """start_training(folder, overrides...): train.py in `folder`, which need not be there yet."""

    def start(folder: Path, *overrides: object) -> Started:
        folder.mkdir(exist_ok=True)
        return command_server.start(command("train.py", *overrides), folder)

    return start


@pytest.fixture
def run(tmp_path: Path, command_server: CommandServer) -> Run:
    """run("train.py", overrides...) in an empty working directory of its own; output is captured as text.

    fresh=True: in an interpreter of its own, for what happens while one starts or imports.
    """

    def run_command(
        program: str, *overrides: object, check: bool = True, fresh: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        asked = command(program, *overrides)
        done = (
            subprocess.run(asked, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600)
            if fresh
            else command_server(asked, tmp_path)
        )
        if check and done.returncode:
            pytest.fail(f"{program} {overrides} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    return run_command


def wait_until(
    happened: Callable[[], object], process: "subprocess.Popen | Started", said: Callable[[], str] = str
) -> None:
    """Return as soon as that has happened; fail where the process ends before, with what it `said`."""
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, said()
        assert time.monotonic() < deadline, said()
        time.sleep(0.01)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """What hangs ends, after far longer than such a test takes."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def image_bytes(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """uint8 [H, W, 3] or [H, W] as an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def tiny_imagenet_files() -> dict[str, bytes]:
    """Tiny ImageNet's layout with 3 classes of 2 training images, one of them gray, and 4 validation images."""
    random = np.random.default_rng(0)
    wnids = ["n03", "n01", "n02"]
    files = {"wnids.txt": "\n".join(wnids).encode(), "words.txt": b"n01\tcat\n"}
    for wnid in wnids:
        for i in range(2):
            shape = (64, 64) if (wnid, i) == ("n01", 0) else (64, 64, 3)
            pixels = random.integers(0, 256, shape, dtype=np.uint8)
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = image_bytes(pixels)
        # The official listing names images that a subset lacks.
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t1\t2\t3\t4\n{wnid}_9.JPEG\t0\t0\t9\t9\n".encode()
    listing = []
    for i, wnid in enumerate(["n01", "n03", "n02", "n01"]):
        files[f"val/images/val_{i}.JPEG"] = image_bytes(random.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        listing.append(f"val_{i}.JPEG\t{wnid}\t{i}\t10\t20\t30")
    files["val/val_annotations.txt"] = "\n".join(listing).encode()
    files["test/images/test_0.JPEG"] = b"never read"
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="session")
def real_subset() -> Path:
    """The zip of real Tiny ImageNet images, where the machine has one."""
    path = REPOSITORY.parent / "shared" / "data" / "tiny-imagenet-200-subset.zip"
    if not path.exists():
        pytest.skip("no real images at ../shared/data/tiny-imagenet-200-subset.zip")
    return path


def two_views(recipe: Recipe) -> Augmentation:
    return Augmentation(2, **asdict(recipe))


def only_run(root: Path) -> Path:
    (found,) = (path for path in root.iterdir() if path.is_dir())
    return found


def scalars(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(last_checkpoint(run_dir))["state_dict"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The working directory of one finished run, and of its linear evaluation."""
    folder = tmp_path_factory.mktemp("finished")
    for script in ("train.py", "linear_eval.py"):
        arguments = TINY_RUN if script == "train.py" else (f"run={only_run(folder / 'outputs')}",)
        asked = command(script, *arguments)
        # What a fresh interpreter says while it imports the libraries is part of what it prints.
        done = subprocess.run(asked, cwd=folder, env=environment(), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        (folder / f"{script}.txt").write_text(done.stdout + done.stderr)
    return folder
