"""Downloads that can be interrupted: resumed by HTTP Range, checked, and unpacked whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import logging
import lzma
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from wcx import files
from wcx.errors import DataError

log = logging.getLogger("wcx")
CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
# What a damaged archive or a full disk raises; RuntimeError: an encrypted zip, NotImplementedError: its odder kinds.
BROKEN = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def install(url: str, root: Path, member: str, *, md5: str, size: int | None = None) -> Path:
    """Fetch an archive into `root` and unpack its folder `member` as `root/member`, unless that is there already."""
    folder = root / member
    if not folder.exists():
        archive = fetch(url, root / url.rsplit("/", 1)[-1], md5=md5, size=size)
        with _alone(folder):
            if not folder.exists():
                extract(archive, folder, PurePosixPath(member).name)
    return folder


def fetch(
    url: str,
    dest: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    size: int | None = None,
    attempts: int = 3,
) -> Path:
    """Download `url` to the file `dest`, unless it is there already; return `dest`.

    Bytes gather in `<dest>.part`, which a later call continues. `dest` appears only after its size and checksums agree. Another
    process that downloads it is waited for.

    Args:
        url: http or https.
        md5: expected checksum (hex), or None.
        sha256: expected checksum (hex), or None.
        size: expected size in bytes, or None.
        attempts: how often to connect before giving up.

    Raises:
        DataError: no connection, an error status, a wrong size or checksum (a wrong `.part` is removed), no space.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"cannot download {url}: only http and https are supported.")
    if not dest.is_file():
        try:
            dest.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot download to {dest.parent}: {_line(error)}.") from error
        with _alone(dest):
            if not dest.is_file():
                return _gathered(url, dest, md5, sha256, size, attempts)
    _verify(dest, url, md5, sha256, size)
    return dest


def _gathered(url: str, dest: Path, md5: str | None, sha256: str | None, size: int | None, attempts: int) -> Path:
    part = dest.with_name(dest.name + ".part")
    for attempt in range(1, attempts + 1):
        try:
            _continue(url, part, size)
            break
        except (OSError, http.client.HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
            if refused or attempt == attempts:
                raise DataError(
                    f"download of {url} stopped after {_length(part)} bytes: {_line(error)}. "
                    f"Run the same command again to resume, or put the file at {dest} yourself."
                ) from error
            time.sleep(attempt)
    try:
        _verify(part, url, md5, sha256, size)
    except DataError:
        part.unlink()
        raise
    return part.replace(dest)


def extract(archive: Path, dest: Path, member: str | None = None) -> Path:
    """Unpack a tar (any compression) or zip so that the folder `dest` appears whole or not at all; return `dest`.

    Plain files and folders only: a member with an absolute path or "..", a link or a device refuses the whole archive.

    Args:
        dest: must not exist yet.
        member: the folder of the archive that becomes `dest`; None for all of it.

    Raises:
        DataError: the archive is unsafe, damaged or lacks `member`; `dest` exists; no space.
    """
    if dest.exists():
        raise DataError(f"cannot unpack {archive.name}: {dest} exists already. Move it away first.")
    partial = dest.with_name(f".{dest.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # what a killed run may have left
        partial.mkdir(parents=True)
        for name, stream in tqdm(_members(archive), desc=f"unpacking {archive.name}", unit=" files", disable=None):
            target = partial / _safe(name, archive)
            if stream is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, CHUNK)
        folder = partial / member if member else partial
        if not folder.is_dir():
            raise DataError(f"cannot unpack {archive}: it holds no folder {member!r}.")
        folder.rename(dest)
    except BROKEN as error:
        raise DataError(
            f"cannot unpack {archive}: {_line(error)}. If the archive is damaged, delete it and download again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return dest


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold what is made: another process that makes it is waited for."""
    waits = partial(log.warning, "waiting for another process that makes %s", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.with_name(f".{path.name}.lock"), waits):
        yield


def _continue(url: str, part: Path, size: int | None) -> None:
    """Append what is missing to `part`; OSError when the connection ends early."""
    done = _length(part)
    if size is not None and done > size:
        part.unlink()
        done = 0
    if done and done == size:
        return
    headers = {"User-Agent": "wcx", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()  # longer than the file on the server: start again
        raise OSError("the server has no bytes beyond the ones downloaded before") from error
    with answer:
        resumed = done and answer.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise OSError(f"the server answered with other bytes than asked: {answer.headers.get('Content-Range')}")
        done = done if resumed else 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        if None not in (size, total) and size != total:
            raise DataError(f"{url} is {total} bytes long, expected {size}: not the file that was published.")
        bar = tqdm(desc=part.stem, total=total, initial=done, unit="B", unit_scale=True, disable=None)
        with part.open("ab" if resumed else "wb") as file, bar:
            while block := answer.read(CHUNK):
                file.write(block)
                bar.update(len(block))
    if total is not None and _length(part) < total:
        raise OSError(f"the connection ended before {total} bytes")


def _verify(path: Path, url: str, md5: str | None, sha256: str | None, size: int | None) -> None:
    if size is not None and _length(path) != size:
        raise DataError(f"{path} has {_length(path)} bytes, expected {size} (from {url}). Delete it and try again.")
    for kind, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)).hexdigest()
        if digest != expected.lower():
            raise DataError(f"{path} has {kind} {digest}, expected {expected} (from {url}). Delete it and try again.")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield (name, stream) of every file and (name, None) of every folder."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for info in tar:
                if not (info.isfile() or info.isdir()):
                    raise DataError(f"refused to unpack {archive}: {info.name!r} is a link or a device.")
                yield info.name, tar.extractfile(info) if info.isfile() else None
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(f"refused to unpack {archive}: {info.filename!r} is a link or a device.")
                yield info.filename, None if info.is_dir() else zipped.open(info)
    else:
        raise DataError(f"cannot unpack {archive}: neither a tar nor a zip archive.")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise DataError(f"refused to unpack {archive}: {name!r} would land outside the folder.")
    return path


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
