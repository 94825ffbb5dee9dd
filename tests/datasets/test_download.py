"""Downloads against a local server that honours Range, or not, or drops the connection."""

import hashlib
import io
import re
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from wcx import files
from wcx.datasets import download
from wcx.datasets.download import fetch, install
from wcx.errors import DataError

BODY = np.random.default_rng(0).bytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` at /data.bin and misbehaves as told."""

    body = BODY
    ranges = True  # honours Range
    shift = 0  # answers a Range with bytes that start so many later than asked
    drops = ()  # the n-th answer stops after drops[n] bytes

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []  # the Range of every request
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        body, start = self.server.body, 0
        if not self.path.startswith("/data.bin"):
            self.send_error(404)
            return
        if wanted and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + self.server.shift
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        turn = len(self.server.asked) - 1
        end = start + self.server.drops[turn] if turn < len(self.server.drops) else len(body)
        self.wfile.write(body[start:end])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def dest(tmp_path):
    return tmp_path / "made" / "data.bin"


def part_of(dest):
    return dest.with_name("data.bin.part")


def leave_part(dest, content):
    dest.parent.mkdir()
    part_of(dest).write_bytes(content)


def get(server, dest, **options):
    return fetch(server.url, dest, **({"md5": MD5, "sha256": SHA256, "size": len(BODY)} | options))


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_plain_download_and_again(server, dest):
    assert get(server, dest) == dest
    assert dest.read_bytes() == BODY
    assert not part_of(dest).exists()
    get(server, dest)
    assert server.asked == [None]  # the second call asked for nothing


@pytest.mark.parametrize(
    "checks", [{}, {"size": None}, {"md5": None, "sha256": None, "size": None}, {"md5": MD5.upper()}]
)
def test_checks_are_optional(server, dest, checks):
    assert get(server, dest, **checks).read_bytes() == BODY


def test_part_is_resumed(server, dest):
    leave_part(dest, BODY[:1000])
    assert get(server, dest).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]


def test_server_without_ranges_starts_again(server, dest):
    server.ranges = False
    leave_part(dest, BODY[:1000])
    assert get(server, dest).read_bytes() == BODY
    assert server.asked == ["bytes=1000-"]


def test_dropped_connection_is_continued(server, dest):
    server.drops = (100_000, 5)
    assert get(server, dest).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", "bytes=100005-"]


def test_gives_up_but_keeps_the_part_for_the_next_run(server, dest):
    server.drops = (10, 10, 10)
    with pytest.raises(DataError, match=r"stopped after 30 bytes.*again to resume") as caught:
        get(server, dest)
    one_line(caught)
    assert not dest.exists()
    assert part_of(dest).read_bytes() == BODY[:30]
    assert get(server, dest).read_bytes() == BODY
    assert server.asked[-1] == "bytes=30-"


def test_complete_part_needs_no_network(server, dest):
    leave_part(dest, BODY)
    assert get(server, dest).read_bytes() == BODY
    assert server.asked == []


@pytest.mark.parametrize("size", [None, len(BODY)])
def test_part_that_is_too_long_starts_again(server, dest, size):
    leave_part(dest, BODY + b"more")
    assert get(server, dest, size=size).read_bytes() == BODY


def test_other_bytes_than_asked_are_refused(server, dest):
    server.shift = 7
    leave_part(dest, BODY[:1000])
    with pytest.raises(DataError, match="other bytes than asked"):
        get(server, dest)
    assert not dest.exists()


@pytest.mark.parametrize("wrong", [{"md5": "0" * 32}, {"sha256": "0" * 64}])
def test_wrong_checksum_leaves_nothing(server, dest, wrong):
    with pytest.raises(DataError, match="expected 0000") as caught:
        get(server, dest, **wrong)
    one_line(caught)
    assert list(dest.parent.glob("[!.]*")) == []


def test_damaged_part_is_removed_after_the_checksum(server, dest):
    leave_part(dest, b"x" * 1000)
    with pytest.raises(DataError, match="md5"):
        get(server, dest)
    assert get(server, dest).read_bytes() == BODY


def test_wrong_size_is_seen_before_the_download(server, dest):
    with pytest.raises(DataError, match=f"{len(BODY)} bytes long, expected 5"):
        get(server, dest, size=5)
    assert not dest.exists()


def test_wrong_file_in_place_is_kept_and_named(server, dest):
    dest.parent.mkdir()
    dest.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"data\.bin has 4 bytes, expected 300000.*Delete it"):
        get(server, dest)
    assert dest.read_bytes() == b"mine"
    assert server.asked == []


def test_error_status_is_not_repeated(server, dest):
    with pytest.raises(DataError, match="404") as caught:
        fetch(server.url.replace("data.bin", "gone.bin"), dest)
    one_line(caught)
    assert len(server.asked) == 1


def test_no_server_no_scheme_no_folder(server, dest, tmp_path):
    with pytest.raises(DataError, match="stopped after 0 bytes"):
        fetch("http://127.0.0.1:9/data.bin", dest)
    for url in ("file:///etc/hostname", "ftp://127.0.0.1/x"):
        with pytest.raises(DataError, match="only http and https"):
            fetch(url, dest)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot download to"):
        fetch(server.url, tmp_path / "file" / "x")


@pytest.mark.parametrize("made", ["data.bin", "top"])
def test_another_process_is_waited_for(server, tmp_path, caplog, made):
    """Two added to one part at once, and the sum was wrong; or one removed what the other was unpacking."""
    (tmp_path / "data.bin").write_bytes(BODY)
    other = threading.Thread(target=install, args=(server.url, tmp_path, "top"), kwargs={"md5": MD5})
    (tmp_path / made).unlink(missing_ok=True)
    with files.locked(tmp_path / f".{made}.lock"):
        other.start()
        while f"waiting for another process that makes {tmp_path / made}" not in caplog.text:
            assert other.is_alive()
            time.sleep(0.01)
        (tmp_path / "data.bin").write_bytes(BODY)
        (tmp_path / "top").mkdir()
    other.join()
    assert server.asked == []
    assert list((tmp_path / "top").iterdir()) == []


def test_install(server, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("top/a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    server.body = buffer.getvalue()
    md5 = hashlib.md5(server.body).hexdigest()
    for _ in range(2):
        folder = install(server.url, tmp_path / "root", "top", md5=md5, size=len(server.body))
        assert (folder / "a.txt").read_bytes() == b"a"
    assert len(server.asked) == 1
