"""The cache of decoded images: exact, resumable, shared by processes, and never silent about a damaged file."""

import errno
import multiprocessing
import os
import pickle
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from tests.datasets.trees import imagenet, picture
from wcx import datasets
from wcx.cli import application, opening
from wcx.datasets import cache
from wcx.datasets.base import ImageDataset
from wcx.errors import DataError, WcxError
from wcx.images import Transform

N = 9


def toy(root, n=N, **options):
    for i in range(n):
        if not (root / f"{i}.jpg").exists():
            picture(root / f"{i}.jpg", i, (40 + i, 30))
    arguments = {"class_names": ["a", "b"], "transform": Transform("crop", 16, 20)} | options
    return ImageDataset("toy", "test", root, [f"{i}.jpg" for i in range(n)], [i % 2 for i in range(n)], **arguments)


@pytest.fixture
def dataset(tmp_path):
    return toy(tmp_path / "images")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def undecoded(monkeypatch):
    """From here on no image can be decoded."""

    def forbid():
        def image(self, i):
            raise AssertionError(f"image {i} was decoded again")

        monkeypatch.setattr(ImageDataset, "image", image)

    return forbid


def same(one, other):
    return all(torch.equal(a, b) and la == lb for (a, la), (b, lb) in zip(one, other, strict=True))


@pytest.mark.parametrize("filled", [False, True], ids=["at access", "beforehand"])
def test_exact_bit_by_bit(dataset, folder, undecoded, filled):
    expected = list(dataset)
    cached = datasets.cached(dataset, folder)
    if filled:
        cached.fill(workers=2, quiet=True)
    assert same(list(cached), expected)
    undecoded()
    again = datasets.cached(dataset, folder)
    assert same(list(again), expected)
    assert again[0][0].dtype == torch.float32
    assert torch.equal(again[-1][0], expected[-1][0])
    stored = np.load(again.file, mmap_mode="r")
    assert (stored.shape, stored.dtype) == ((N, 3, 16, 16), np.uint8)


def test_it_is_the_dataset_in_all_else(tmp_path, folder):
    imagenet(tmp_path)
    dataset = datasets.load("imagenet", tmp_path)
    cached = datasets.cached(dataset, folder)
    assert isinstance(cached, ImageDataset)
    for name in ("name", "split", "root", "ids", "labels", "class_names", "boxes", "official", "subset", "transform"):
        assert getattr(cached, name) == getattr(dataset, name)
    assert len(cached) == 2
    assert cached.listing_hash() == dataset.listing_hash()
    assert cached.image(0).size == dataset.image(0).size
    assert same(list(pickle.loads(pickle.dumps(cached))), list(dataset))
    with pytest.raises(AttributeError):
        cached.transform = Transform()


def test_another_listing_or_transform_is_another_file(dataset, folder):
    files = {datasets.cached(dataset, folder).file}
    dataset.transform = Transform("squash", 16)
    files.add(datasets.cached(dataset, folder).file)
    picture(dataset.path(0), 99, (50, 31))
    files.add(datasets.cached(dataset, folder).file)
    assert len(files) == 3


def test_only_what_is_asked_for(dataset, folder):
    cached = datasets.cached(dataset, folder)
    cached.fill([5, 2], quiet=True)
    cached.fill([5, 2, 7], quiet=True)
    assert cached._sums.nonzero()[0].tolist() == [2, 5, 7]


def test_a_damaged_entry_is_decoded_again(dataset, folder):
    expected, cached = list(dataset), datasets.cached(dataset, folder)
    cached.fill(quiet=True)
    pixels = np.load(cached.file, mmap_mode="r+")
    pixels[3, 1, 4, 4] ^= 1
    pixels[4] = 0  # as after a power cut: the sum was written, the pixels were not
    assert same(list(datasets.cached(dataset, folder)), expected)
    cached.file.unlink()
    assert same(list(datasets.cached(dataset, folder)), expected)


@pytest.mark.parametrize("which", ["file", "_sums_file"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: bytes(len(content)),
        lambda content: content.replace(b"(9,", b"(7,"),
        lambda content: content.replace(b"|u1", b"|b1").replace(b"<u8", b"<f8"),
    ],
)
def test_a_file_that_is_another_is_set_aside(dataset, folder, which, damage, caplog):
    expected, cached = list(dataset), datasets.cached(dataset, folder)
    cached.fill(quiet=True)
    file = getattr(cached, which)
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert same(list(datasets.cached(dataset, folder)), expected)
    assert [path.name for path in folder.glob("*.damaged-*")] == [f"{file.name}.damaged-1"]
    assert f"{file} " in caplog.text


def test_damage_is_told_once(dataset, folder, caplog):
    cached = datasets.cached(dataset, folder)
    cached.fill(quiet=True)
    np.load(cached.file, mmap_mode="r+")[2:5] ^= 3
    again = datasets.cached(dataset, folder)
    assert same(list(again), list(dataset))
    [line] = caplog.messages
    assert line == f"{cached.file}: damaged, decoded again: image 2"


@pytest.mark.posix
def test_without_locks_on_the_file_system(dataset, folder, monkeypatch, fcntl):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    cached = datasets.cached(dataset, folder)
    cached.fill(quiet=True)
    assert same(list(datasets.cached(dataset, folder)), list(dataset))
    assert not list(folder.glob("*.owner"))


def test_an_unreadable_image_stays_one(dataset, folder):
    dataset.path(4).write_bytes(b"no image")
    cached = datasets.cached(dataset, folder)
    for _ in range(2):
        cached.fill(quiet=True)
        with pytest.raises(DataError, match=r"4\.jpg: not an image"):
            cached[4]
    assert torch.equal(cached[5][0], dataset[5][0])


def _fill(root, folder):
    datasets.cached(toy(root, 40), folder).fill(quiet=True)


@pytest.mark.posix
def test_killed_and_two_at_once(tmp_path, folder, undecoded):
    """A process is killed while it decodes; two others go on at the same time."""
    root, context = tmp_path / "images", multiprocessing.get_context("fork")
    expected = list(toy(root, 40))
    killed = context.Process(target=_fill, args=(root, folder))
    killed.start()
    while killed.is_alive() and not list(folder.glob("*-sums.npy")):
        pass
    killed.kill()
    killed.join()
    both = [context.Process(target=_fill, args=(root, folder)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    undecoded()
    assert same(list(datasets.cached(toy(root, 40), folder)), expected)


@pytest.mark.posix
def test_waits_for_the_process_that_decodes(dataset, folder, caplog, fcntl):
    cached = datasets.cached(dataset, folder)
    with next(folder.glob("*.lock")).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=cached.fill, kwargs={"quiet": True})
        second.start()
        while "waiting for another process" not in caplog.text:
            assert second.is_alive()
            time.sleep(0.01)
        assert not cached._sums.any()
    second.join()
    assert cached._sums.all()


def test_room_on_the_disk(dataset, folder, monkeypatch):
    cached = datasets.cached(dataset, folder)
    free = shutil.disk_usage(folder)._replace(free=1000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: free)
    with pytest.raises(WcxError, match=r"needs 0.0 GB more in .*paths.cache_dir"):
        cached.fill(quiet=True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache.os, "pwrite", full)
    with pytest.raises(WcxError, match="No space left") as caught:
        cached[0]
    assert not isinstance(caught.value, DataError), "on_error=skip must not take it for an unreadable image"


def test_what_cannot_be_cached(dataset, folder, tmp_path, monkeypatch):
    with pytest.raises(WcxError, match="parts is drawn"):
        datasets.cached(datasets.load("parts", tmp_path), folder)
    (tmp_path / "file").touch()
    with pytest.raises(WcxError, match=r"the cache in .*file cannot be used"):
        datasets.cached(dataset, tmp_path / "file")
    monkeypatch.setattr(Transform, "__call__", lambda self, image: torch.full((3, 16, 16), 0.123))
    with pytest.raises(WcxError, match="not of 8 bits"):
        datasets.cached(dataset, folder)[0]


def test_the_command_line(tmp_path):
    imagenet(tmp_path / "imagenet")
    shared = ["dataset=imagenet", f"paths.data_dir={tmp_path}", f"paths.results_dir={tmp_path}"]
    assert type(opening.test_images(application.compose(shared))) is ImageDataset
    assert type(opening.test_images(application.compose([*shared, "cache=true", "plan=true"]))) is ImageDataset
    for limit, stored in ((1, 1), ("null", 2)):
        images = opening.test_images(application.compose([*shared, "cache=true", f"limit={limit}"]))
        assert images.folder == tmp_path / "cache"
        assert (images._sums != 0).sum() == stored
    images = opening.test_images(
        application.compose(
            [*shared, "experiment=masking", "cache=true", "limit_selected=1", f"paths.cache_dir={tmp_path}/other"]
        )
    )
    assert images.folder == tmp_path / "other"
    assert not images._sums.any()
