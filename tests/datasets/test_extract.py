"""Unpacking: whole or not at all, and never outside its folder."""

import io
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from wcx.datasets import download
from wcx.datasets.download import extract
from wcx.errors import DataError

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


@pytest.mark.parametrize("name", ["../evil.txt", "top/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:/evil.txt"])
@pytest.mark.parametrize("make", [tar_of, zip_of])
def test_paths_outside_are_refused(tmp_path, make, name):
    archive = make(tmp_path / "archive", {"top/a.txt": b"a", name: b"evil"})
    with pytest.raises(DataError, match="refused to unpack") as caught:
        extract(archive, tmp_path / "out")
    assert "\n" not in str(caught.value)
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
    assert "\n" not in str(caught.value)
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
