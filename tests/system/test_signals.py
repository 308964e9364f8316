"""Signals that ask a process to stop: what they do, which are taken, and who gets them afterwards."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from simclr.system.signals import Requeue, Stop
from tests.conftest import REPOSITORY

EVERY = [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]


@pytest.mark.parametrize("number", EVERY)
def test_each_leaves_the_job_and_asks_to_be_run_again(number):
    before = signal.getsignal(number)
    with pytest.raises(Requeue) as left, Stop(75) as stop:
        os.kill(os.getpid(), number)
    assert left.value.code == 75
    assert stop.received is number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", EVERY)
def test_a_second_one_does_not_disturb_what_the_first_has_begun(number):
    """Neither where the job is asked to come to an end, nor while it tidies up."""
    saved = []

    def job() -> None:
        stop.action = lambda: None
        try:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGTERM)
            stop.leave()
        finally:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGUSR1)
            saved.append("all")

    with pytest.raises(Requeue), Stop(75) as stop:
        job()
    assert saved == ["all"]
    assert stop.received is number


def test_ctrl_c_leaves_with_the_status_that_shells_expect():
    """It wants no requeue; Python's own handler is back afterwards, and is not called on top."""
    with pytest.raises(Requeue) as left, Stop(75) as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert left.value.code == 130
    assert stop.received is signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_ends_the_process_at_once():
    code = (
        "import os, signal, time\n"
        "from simclr.system.signals import Stop\n"
        "with Stop(75) as stop:\n"
        "    stop.action = lambda: print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('goes on', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('too late', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGINT
    assert (done.stdout, done.stderr) == ("first\ngoes on\n", "")


def test_one_that_was_to_be_ignored_stays_so():
    """As nohup does with SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop(75) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_who_had_the_signal_before_gets_it_when_the_job_has_been_left():
    """submitit's handler has the job requeued, which kills it: all must be saved by then."""
    events = []

    def job() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR2)
        finally:
            events.append("left")

    before = signal.signal(signal.SIGUSR2, lambda number, frame: events.append(number))
    try:
        with pytest.raises(Requeue), Stop(75):
            job()
        assert events == ["left", signal.SIGUSR2]
        with Stop(75):
            pass
        assert len(events) == 2
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_command_that_was_asked_ends_with_its_status_whatever_comes_while_it_ends(tmp_path):
    """A second signal, when the job has been left and the process is about to end."""
    script = tmp_path / "command.py"
    script.write_text(
        textwrap.dedent("""
            import atexit, os, signal
            from simclr.commands.app import run_command
            from simclr.system.signals import Stop

            def main():
                atexit.register(lambda: os.kill(os.getpid(), signal.SIGUSR1))
                with Stop(85):
                    os.kill(os.getpid(), signal.SIGXCPU)

            run_command(main, "train")
        """),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=60)
    assert done.returncode == 85
