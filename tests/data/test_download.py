"""Downloading from a server of our own that drops connections, lies and refuses."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from simclr.data.files.download import download
from simclr.errors import InputError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    content = CONTENT
    drop_after: int | None = None  # bytes per answer, then the connection closes
    refuse: int | None = None
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.zip"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.refuse:
            self.send_error(self.server.refuse)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.drop_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server: Server, target: Path, md5: str = MD5, attempts: int = 4) -> None:
    download(server.url, target, md5, hint="HINT", attempts=attempts, pause_seconds=0.01)


def test_whole_file(server, tmp_path):
    fetch(server, tmp_path / "new" / "file.zip")
    assert (tmp_path / "new" / "file.zip").read_bytes() == CONTENT
    assert not (tmp_path / "new" / "file.zip.part").exists()


def test_a_dropped_connection_is_resumed_where_it_broke(server, tmp_path):
    server.drop_after = 400_000
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=400000-", "bytes=800000-"]


def test_a_later_call_resumes_and_a_part_is_never_taken_for_the_whole(server, tmp_path):
    server.drop_after = 300_000
    with pytest.raises(InputError, match="connection closed after 600,000 of 1,024,000 bytes"):
        fetch(server, tmp_path / "file.zip", attempts=2)
    assert not (tmp_path / "file.zip").exists()
    server.drop_after = None
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=600000-"


def test_a_server_without_ranges_starts_over(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(b"x" * 1000)
    server.ranges = False
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 5])
def test_a_part_with_wrong_bytes_is_found_out(server, tmp_path, size):
    (tmp_path / "file.zip.part").write_bytes(b"x" * size)
    fetch(server, tmp_path / "file.zip")
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_wrong_content_is_refused_with_all_that_is_needed(server, tmp_path):
    with pytest.raises(InputError, match="expected md5") as error:
        fetch(server, tmp_path / "file.zip", md5="0" * 32)
    for part in (server.url, "0" * 32, str(tmp_path / "file.zip"), "HINT"):
        assert part in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip.lock"]


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (503, 3)])
def test_refusals(server, tmp_path, status, tries):
    server.refuse = status
    with pytest.raises(InputError, match=str(status)):
        fetch(server, tmp_path / "file.zip", attempts=3)
    assert len(server.asked) == tries


def test_no_server_at_all(tmp_path):
    with Server() as server:
        url = server.url
    with pytest.raises(InputError, match=r"cannot download .*HINT"):
        download(url, tmp_path / "file.zip", MD5, hint="HINT", attempts=2, pause_seconds=0.01)


def test_two_that_start_together_fetch_once(server, tmp_path):
    threads = [threading.Thread(target=fetch, args=(server, tmp_path / "file.zip")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None]
