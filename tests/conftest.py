"""Data sets made on the spot, and the commands as a user runs them."""

import io
import json
import os
import select
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


def command(program: str, *overrides: object) -> list[str]:
    """program: a script of this checkout, as train.py, or a module, as benchmarks.scale."""
    start = [str(REPOSITORY / program)] if program.endswith(".py") else ["-m", program]
    return [sys.executable, *start, *map(str, overrides)]


def environment() -> dict[str, str]:
    """One thread, no GPU, and this checkout's code in whatever processes a command starts."""
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)}


class CommandServer:
    """Runs commands through command_server.py, each in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0
        self.server: subprocess.Popen[str] | None = None

    def __call__(self, command: list[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
        """command: as `command` above makes it, with its interpreter."""
        if self.server is None:
            start = [sys.executable, "-m", "tests.command_server"]
            self.server = subprocess.Popen(
                start, cwd=REPOSITORY, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.count += 1
        stdout, stderr = (self.folder / f"{self.count}.{name}" for name in ("stdout", "stderr"))
        stdout.touch()
        stderr.touch()
        request = {
            "program": command[1:],
            "folder": str(cwd),
            "environment": environment(),
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        print(json.dumps(request), file=self.server.stdin, flush=True)
        ready, _, _ = select.select([self.server.stdout], [], [], 600)
        if not ready:
            self.stop()
            raise subprocess.TimeoutExpired(command, 600)
        status = int(self.server.stdout.readline())
        texts = [path.read_text(encoding="utf-8") for path in (stdout, stderr)]
        return subprocess.CompletedProcess(command, status, *texts)

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


def wait_until(happened: Callable[[], object], process: "subprocess.Popen", said: Callable[[], str] = str) -> None:
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
