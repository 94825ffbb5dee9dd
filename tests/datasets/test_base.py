"""The common interface: transform, boxes, decoding, labels of subsets, listing hash."""

import io
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageFile, ImageOps
from torchvision import transforms

from wcx.datasets.base import ImageDataset, decode
from wcx.errors import DataError, WcxError
from wcx.images import Transform
from wcx.models import own_transform

SIZES = [(300, 200), (200, 300), (256, 256), (37, 500), (501, 333), (224, 225)]


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def rectangle(size, box):
    """A white box on black."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x, y, w, h = box
    pixels[y : y + h, x : x + w] = 255
    return Image.fromarray(pixels)


def make(root, **options):
    arguments = {"ids": ["a.png", "b.png"], "labels": [0, 1], "class_names": ["a", "b"]}
    return ImageDataset("toy", "test", root, **(arguments | options))


@pytest.fixture
def toy(tmp_path):
    noise((30, 20), 1).save(tmp_path / "a.png")
    noise((20, 30), 2).save(tmp_path / "b.png")
    return make(tmp_path)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["squash", "crop"])
def test_transform_equals_torchvision(kind, size):
    steps = {
        "squash": [transforms.Resize((224, 224)), transforms.ToTensor()],
        "crop": [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()],
    }
    image = noise(size)
    result = Transform(kind)(image)
    assert result.dtype == torch.float32
    assert torch.equal(result, transforms.Compose(steps[kind])(image))
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "transform", [Transform(), Transform("crop"), Transform("squash", 64), Transform("crop", 60, 90)]
)
def test_box_follows_the_pixels(transform, size):
    width, height = size
    box = (width // 3, height // 4, width // 2, height // 2)
    lit = transform(rectangle(size, box))[0] > 0.5
    x, y, w, h = transform.box(box, width, height)
    rows, columns = torch.nonzero(lit.any(1)).flatten(), torch.nonzero(lit.any(0)).flatten()
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    np.testing.assert_allclose([x, y, x + w, y + h], found, atol=1.01)


def test_box_outside_the_crop_is_empty():
    np.testing.assert_array_equal(Transform("crop").box((0, 0, 5, 200), 600, 200), [0, 0, 0, 224])


@pytest.mark.parametrize("bad", [{"kind": "sqash"}, {"size": 0}, {"kind": "crop", "size": 300}])
def test_bad_transform(bad):
    with pytest.raises(WcxError):
        Transform(**bad)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_image_and_box(tmp_path, orientation):
    box = (10, 4, 30, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    rectangle((80, 48), box).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        upright = ImageOps.exif_transpose(stored)
    dataset = make(tmp_path, ids=["a.jpg"], labels=[0], boxes=np.array([box]), transform=Transform("squash", 120))
    assert dataset.image(0).size == upright.size
    np.testing.assert_array_equal(dataset.image(0), upright)
    lit = dataset[0][0][0] > 0.5
    rows, columns = torch.nonzero(lit.any(1)).flatten(), torch.nonzero(lit.any(0)).flatten()
    x, y, w, h = dataset.box(0)
    np.testing.assert_allclose([x, y, x + w, y + h], [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1.5)


def test_a_strip_is_cut_before_it_is_resized():
    """Whole, it would be 1.3 million pixels long; a constant one, and one that torchvision can resize too."""
    strip = Transform("crop")(Image.new("RGB", (1, 5000), (51, 102, 255)))
    assert torch.equal(strip, torch.tensor([51, 102, 255]).view(3, 1, 1).expand(3, 224, 224) / 255)
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    for image in (noise((40, 1000)), noise((2000, 37))):
        torch.testing.assert_close(Transform("crop")(image), steps(image), rtol=0, atol=1.01 / 255)
    assert Transform("crop", 64, 64)(noise((90, 3))).shape == (3, 64, 64)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    image = noise((9, 7)).convert(mode)
    image.save(tmp_path / "a.tif")
    result = decode(tmp_path / "a.tif")
    assert result.mode == "RGB"
    np.testing.assert_array_equal(result, image.convert("RGB"))


def test_what_is_transparent_shows_white(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(decode(tmp_path / "a.png"), rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    Image.fromarray(rgba[..., 2:]).save(tmp_path / "b.png")  # grey with alpha
    np.testing.assert_allclose(decode(tmp_path / "b.png"), rgba[..., [2] * 3] * alpha + 255 * (1 - alpha), atol=1)


def test_palette_with_transparency_raises_no_warning(tmp_path):
    image = noise((9, 7)).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes([0] * 8 + [255] * 8))
    white = (np.asarray(image) < 8)[..., None]
    np.testing.assert_array_equal(decode(tmp_path / "a.png"), np.where(white, 255, image.convert("RGB")))


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.array([[0, 257, 1000], [32768, 65535, 128]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.round(values / 65535 * 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png"))[..., 1], expected)


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif").getpixel((3, 3)) == (255, 0, 0)


def test_a_decompression_bomb_is_refused_unopened(tmp_path, monkeypatch):
    noise((40, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 // 2 - 1)  # refused from twice the number on
    with pytest.raises(DataError, match=r"a\.png: Image size \(1200 pixels\) exceeds limit"):
        decode(tmp_path / "a.png")


@pytest.mark.posix
def test_large_images_take_bounded_memory(tmp_path):
    """8000 x 6000 pixels, in a process of its own, which tells its peak: at most 16 bytes a pixel beside the imports."""
    size = (8000, 6000)
    for mode in ("RGB", "I;16", "RGBA"):
        Image.new(mode, size, 40000 if mode == "I;16" else "navy").save(
            tmp_path / f"{mode}.tif", compression="packbits"
        )
    script = (
        "import resource, sys; from wcx.datasets.base import Transform, decode\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024; before = peak()\n"
        "for file in sys.argv[1:]: assert Transform('crop')(decode(file)).shape == (3, 224, 224)\n"
        "print(peak() - before)"
    )
    command = [sys.executable, "-c", script, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * size[0] * size[1]


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="floating-point"):
        decode(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("kind", "cut"), [*itertools.product(["JPEG", "PNG", "WEBP", "GIF", "TIFF"], [0, 1, 5, 0.5, 0.9])]
)
def test_truncated_file_is_one_line_that_names_it(tmp_path, kind, cut):
    buffer = io.BytesIO()
    noise((80, 60)).save(buffer, kind)
    data = buffer.getvalue()
    path = tmp_path / "cut.img"
    path.write_bytes(data[: int(cut * len(data)) if 0 < cut < 1 else cut])
    with pytest.raises(DataError, match=r"cut\.img") as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_missing_and_foreign_files(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>Not found</html>")
    with pytest.raises(DataError, match=r"page\.jpg: not an image file"):
        decode(tmp_path / "page.jpg")
    with pytest.raises(DataError, match=r"missing: .*gone\.jpg"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot read image"):
        decode(tmp_path)


def test_items(toy):
    pixels, label = toy[1]
    assert pixels.shape == (3, 224, 224)
    assert label == 1
    assert isinstance(label, int)
    assert len(list(toy)) == len(toy) == 2
    assert toy.box(0) is None
    again = pickle.loads(pickle.dumps(toy))  # as a worker process gets it
    assert torch.equal(again[1][0], pixels)


def test_contradictions_are_refused(tmp_path):
    for bad in ({"ids": []}, {"labels": [0]}, {"labels": [0, 2]}, {"labels": [-1, 0]}, {"ids": ["a.png", "a.png"]}):
        with pytest.raises(DataError):
            make(tmp_path, **bad)


def test_subset(tmp_path):
    official = {"classes": 2, "train": 7, "test": 2}
    assert make(tmp_path).subset == ""
    assert make(tmp_path, official=official).subset == ""
    assert make(tmp_path, official=official, official_split=False).subset == "not the official split"
    text = "subset: 2 of 200 classes, 2 of 5794 test images"
    official = {"classes": 200, "train": 5994, "test": 5794}
    assert make(tmp_path, official=official).subset == text
    assert make(tmp_path, official=official, official_split=False).subset == text + ", not the official split"


def test_listing_hash_follows_the_data(toy):
    root, first = toy.root, toy.listing_hash()
    assert make(root).listing_hash() == first
    hashes = {first}
    hashes.add(make(root, labels=[1, 1]).listing_hash())
    hashes.add(make(root, ids=["b.png", "a.png"]).listing_hash())
    hashes.add(make(root, class_names=["a", "c"]).listing_hash())
    hashes.add(make(root, boxes=np.ones((2, 4))).listing_hash())
    with (root / "a.png").open("ab") as file:
        file.write(b"x")
    hashes.add(make(root).listing_hash())
    assert len(hashes) == 6
    (root / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        make(root).listing_hash()


@pytest.mark.parametrize("name", ["efficientnet_b1", "vgg16"])
def test_a_networks_own_transform_is_torchvisions(name: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 410, 3), dtype=np.uint8))
    preset = torchvision.models.get_model_weights(name).IMAGENET1K_V1.transforms()
    ours = own_transform(name, "IMAGENET1K_V1")(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in (preset.mean, preset.std))
    assert torch.allclose((ours - mean) / std, preset(image), atol=1e-6)
    assert type(own_transform("vgg16")) is Transform, "one kind, one fingerprint"


def test_own_transforms_of_what_is_not_torchvisions_are_refused() -> None:
    with pytest.raises(WcxError, match="unknown model of torchvision 'small_cnn'"):
        own_transform("small_cnn")
    with pytest.raises(WcxError, match="weights of vgg16"):
        own_transform("vgg16", "IMAGENET1K_V7")
