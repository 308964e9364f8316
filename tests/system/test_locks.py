"""One process at a time, with the system's locks and on a file system that has none."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from simclr.system import locks
from simclr.system.locks import Locked, locked
from tests.commands.test_resume import LONGER, wait_for_a_checkpoint
from tests.conftest import command, environment, only_run

NO_LOCKS = """
import errno, fcntl

def flock(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = flock
"""


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM], ids=errno.errorcode.get)
def no_locks(request, monkeypatch):
    """In this process, no file system has locks."""

    def flock(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr("fcntl.flock", flock)


def elsewhere(tmp_path: Path, system_locks: bool = False) -> dict[str, str]:
    """The environment of other processes, in which file systems have no locks, or have them."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text("" if system_locks else NO_LOCKS, encoding="utf-8")
    repository = str(Path(__file__).resolve().parents[2])
    return environment() | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), repository])}


def python(code: str, *arguments: object, env: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


HOLD = """
    import pathlib, sys
    from simclr.system.locks import locked
    with locked(pathlib.Path(sys.argv[1])):
        print("held", flush=True)
        sys.stdin.readline()
"""


def holder(path: Path, env: dict[str, str], code: str = HOLD) -> "subprocess.Popen[str]":
    process = python(code, path, env=env)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("system_locks", [True, False])
def test_one_process_at_a_time_counts(system_locks, tmp_path):
    """Without a lock, processes that read a number, wait and write it plus one lose most of what they add."""
    code = """
        import pathlib, sys, time
        from simclr.system.locks import locked
        path = pathlib.Path(sys.argv[1])
        for _ in range(5):
            with locked(path.with_suffix(".lock"), timeout=None):
                number = int(path.read_text())
                time.sleep(0.01)
                path.write_text(str(number + 1))
    """
    number = tmp_path / "number"
    number.write_text("0")
    dead = {"pid": 2**22 + 1, "host": "here", "machine": locks._machine()}  # beyond Linux's largest process
    (tmp_path / "number.lock.owner").write_text(json.dumps(dead))
    env = elsewhere(tmp_path, system_locks)
    for process in [python(code, number, env=env) for _ in range(4)]:
        process.communicate(timeout=60)
    assert number.read_text() == "20"


def test_an_owner_is_named_and_a_killed_one_is_taken_over_which_is_said(no_locks, tmp_path, caplog):
    path = tmp_path / ".lock"
    process = holder(path, elsewhere(tmp_path))
    with pytest.raises(Locked, match=rf"process {process.pid} on .* rm {path}.owner"), locked(path):
        pass
    process.kill()
    process.communicate()
    with locked(path):
        assert json.loads((tmp_path / ".lock.owner").read_text())["pid"] == os.getpid()
    assert f"Process {process.pid} on" in caplog.text
    assert "has ended; its lock is taken over" in caplog.text
    assert not (tmp_path / ".lock.owner").exists()
    with locked(path):
        pass


def test_another_machines_owner_is_gone_when_it_is_silent(no_locks, tmp_path, caplog):
    owner = tmp_path / ".lock.owner"
    owner.write_text(json.dumps({"pid": os.getpid(), "host": "node17", "machine": "node17 1 2"}))
    with pytest.raises(Locked, match=f"process {os.getpid()} on node17.*180 seconds after.*rm {owner}"):
        locked(tmp_path / ".lock").__enter__()
    os.utime(owner, (time.time() - locks.SILENCE - 1,) * 2)
    with locked(tmp_path / ".lock"):
        pass
    assert "on node17 held" in caplog.text
    assert "silent for 18" in caplog.text


def test_a_living_owner_is_never_silent(no_locks, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    path, owner = tmp_path / ".lock", tmp_path / ".lock.owner"
    with locked(path):
        os.utime(owner, (0, 0))
        deadline = time.monotonic() + 30
        while owner.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_owner_whose_lock_was_taken_stops(tmp_path):
    """It had been frozen for so long that it counted as gone."""
    code = "from simclr.system import locks\nlocks.BEAT = 0.05\n" + textwrap.dedent(HOLD)
    process = holder(tmp_path / ".lock", elsewhere(tmp_path), code)
    (tmp_path / ".lock.owner").write_text(json.dumps({"pid": 1, "host": "node17", "machine": "node17 1 2"}))
    assert process.stdout is not None
    said = process.stdout.read()
    process.wait(timeout=30)
    assert "is another's now, or was removed: this process stops" in said
    assert process.returncode == 1
    assert "node17" in (tmp_path / ".lock.owner").read_text()


def test_a_process_with_system_locks_heeds_one_without(tmp_path):
    process = holder(tmp_path / ".lock", elsewhere(tmp_path))
    with pytest.raises(Locked, match=f"process {process.pid} on"), locked(tmp_path / ".lock"):
        pass
    process.communicate("\n", timeout=30)
    with locked(tmp_path / ".lock"):
        pass


def test_waiting_is_said_once_and_ends_with_the_other(tmp_path):
    process, said = holder(tmp_path / ".lock", elsewhere(tmp_path, system_locks=True)), []

    def waiting() -> None:
        said.append("waiting")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    with pytest.raises(Locked), locked(tmp_path / ".lock"):
        pass
    with locked(tmp_path / ".lock", timeout=None, waiting=waiting):
        assert said == ["waiting"]
    process.communicate(timeout=30)


@pytest.mark.slow
def test_a_run_where_there_are_no_locks(tmp_path):
    """It trains; a second command is refused in one line; after a kill the next goes on and says whose lock it took."""
    env = elsewhere(tmp_path)
    arguments = command("train.py", *LONGER, "checkpoint_minutes=0.002")
    pipes = {
        "cwd": tmp_path,
        "env": env,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }
    first = subprocess.Popen(arguments, start_new_session=True, **pipes)
    wait_for_a_checkpoint(tmp_path, first, range(3, 10))
    os.kill(first.pid, signal.SIGSTOP)  # alive, and not done before the second has started
    second = subprocess.run(arguments, **pipes)
    assert second.returncode == 1
    run_dir = only_run(tmp_path / "outputs")
    (line,) = second.stdout.splitlines()
    assert f"error: another process is training in {run_dir}" in line
    assert f"process {first.pid} on" in line
    assert f"rm {run_dir}/.lock.owner" in line
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    third = subprocess.run(arguments, **pipes)
    assert third.returncode == 0, third.stdout
    assert f"Process {first.pid} on" in third.stdout
    assert "its lock is taken over" in third.stdout
    assert "Going on from" in third.stdout
    assert (run_dir / "metrics.json").exists()
    assert not (run_dir / ".lock.owner").exists()
