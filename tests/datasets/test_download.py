"""Downloads against a local server, and unpacking of good and bad archives."""

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from wcx.datasets import download
from wcx.datasets.download import extract, fetch, install
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
    assert list(dest.parent.iterdir()) == []


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


# ---- archives

FILES = {"top/a.txt": b"a", "top/sub/b.bin": b"\0" * 5000, "other.txt": b"o"}


def tar_of(path, files, mode="w:gz", special=None):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if special is not None:
            tar.addfile(special)
    return path


def zip_of(path, files, link=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
    return path


def special(kind, name="top/x", target="a.txt"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def untouched(tmp_path, archive):
    """Nothing but the archive is there: no folder half done, nothing outside."""
    return [path.name for path in tmp_path.iterdir()] == [archive.name] and not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_extract(tmp_path, kind):
    path = tmp_path / "archive"
    archive = zip_of(path, FILES) if kind == "zip" else tar_of(path, FILES, kind)
    whole = extract(archive, tmp_path / "whole")
    assert {str(p.relative_to(whole)): p.read_bytes() for p in whole.rglob("*") if p.is_file()} == FILES
    top = extract(archive, tmp_path / "deep" / "top", "top")
    assert sorted(p.name for p in top.iterdir()) == ["a.txt", "sub"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "deep", "whole"]
    with pytest.raises(DataError, match="no folder 'bottom'"):
        extract(archive, tmp_path / "x", "bottom")


@pytest.mark.parametrize("name", ["../evil.txt", "top/../../evil.txt", "/tmp/evil.txt", "..\\evil.txt", "C:/evil.txt"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_paths_outside_are_refused(tmp_path, make, name):
    archive = make(tmp_path / "archive", {"top/a.txt": b"a", name: b"evil"})
    with pytest.raises(DataError, match="refused to unpack") as caught:
        extract(archive, tmp_path / "out")
    one_line(caught)
    assert untouched(tmp_path, archive)


@pytest.mark.parametrize(
    "member",
    [
        special(tarfile.SYMTYPE, target="/etc/passwd"),
        special(tarfile.SYMTYPE, target="../../evil.txt"),
        special(tarfile.SYMTYPE),
        special(tarfile.LNKTYPE, target="top/a.txt"),
        special(tarfile.FIFOTYPE),
        special(tarfile.CHRTYPE),
    ],
)
def test_links_and_devices_are_refused(tmp_path, member):
    archive = tar_of(tmp_path / "archive", FILES, special=member)
    with pytest.raises(DataError, match="link or a device"):
        extract(archive, tmp_path / "out")
    assert untouched(tmp_path, archive)


def test_link_in_zip_is_refused(tmp_path):
    archive = zip_of(tmp_path / "archive", FILES, link="top/link")
    with pytest.raises(DataError, match="link or a device"):
        extract(archive, tmp_path / "out")
    assert untouched(tmp_path, archive)


@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_truncated_archive_leaves_nothing(tmp_path, make):
    noise = {f"top/{i}.bin": np.random.default_rng(i).bytes(20_000) for i in range(5)}
    archive = make(tmp_path / "archive", noise)
    archive.write_bytes(archive.read_bytes()[:70_000])
    with pytest.raises(DataError, match="cannot unpack") as caught:
        extract(archive, tmp_path / "out")
    one_line(caught)
    assert untouched(tmp_path, archive)


def test_no_archive_at_all(tmp_path):
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(DataError, match="neither a tar nor a zip"):
        extract(tmp_path / "page.html", tmp_path / "out")
    with pytest.raises(DataError, match="cannot unpack"):
        extract(tmp_path / "gone.tgz", tmp_path / "out")


def test_interrupted_extraction_is_done_again(tmp_path, monkeypatch):
    archive = tar_of(tmp_path / "archive", FILES)
    copy, calls = download.shutil.copyfileobj, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        copy(*args)

    monkeypatch.setattr(download.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "out")
    assert untouched(tmp_path, archive)
    # a SIGKILL cleans nothing up: what it leaves must not end in the result
    (tmp_path / ".out.partial" / "top").mkdir(parents=True)
    (tmp_path / ".out.partial" / "stale.txt").write_text("old")
    out = extract(archive, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["other.txt", "top"]
    with pytest.raises(DataError, match="exists already"):
        extract(archive, out)


def test_install(server, tmp_path):
    archive = tar_of(tmp_path / "archive.tgz", FILES)
    server.body = archive.read_bytes()
    md5 = hashlib.md5(server.body).hexdigest()
    for _ in range(2):
        folder = install(server.url, tmp_path / "root", "top", md5=md5, size=len(server.body))
        assert (folder / "a.txt").read_bytes() == b"a"
    assert len(server.asked) == 1
