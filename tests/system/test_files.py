"""Files that appear whole or not at all: what a failure, a kill and a full disk leave."""

import os
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from simclr.errors import InputError
from simclr.system.files import replacing


def python(code: str, *arguments: object, **options) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def write_some_and_fail(path) -> None:
    path.write_text("ne")
    raise ZeroDivisionError


def test_what_was_written_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "new folder" / "ä file"
    for content in ("old", "new"):
        with replacing(path) as unfinished:
            unfinished.write_text(content)
        assert path.read_text() == content
    assert [path] == list(path.parent.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as unfinished:
        write_some_and_fail(unfinished)
    assert path.read_text() == "old"
    assert [path] == list(tmp_path.iterdir())


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    writer = python(
        """
        import sys, time, pathlib
        from simclr.system.files import replacing
        with replacing(pathlib.Path(sys.argv[1])) as unfinished:
            unfinished.write_text("ne")
            print("writing", flush=True)
            time.sleep(60)
        """,
        path,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    writer = python(
        """
        import sys, pathlib
        from simclr.errors import InputError
        from simclr.system.files import replacing
        try:
            with replacing(pathlib.Path(sys.argv[1])) as unfinished:
                unfinished.write_bytes(bytes(10_000))
        except InputError as error:
            print(error)
        """,
        path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    said, _ = writer.communicate(timeout=60)
    assert f"cannot write {path} (File too large)" in said
    assert path.read_text() == "old"
    assert [path] == list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), replacing(tmp_path / "file" / "below") as unfinished:
        unfinished.write_text("")
