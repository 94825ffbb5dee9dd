"""Networks of one channel, from the command line's words to figures and records; the oracle is the plain network on Pillow's L."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import wcx
from wcx import datasets
from wcx.cli import application
from wcx.cli.commands import photo, run
from wcx.datasets import Transform, as_transform, cached
from wcx.errors import WcxError
from wcx.images import Normalized
from wcx.models import custom

NAMES = ["cat", "dog", "eel"]
CODE = """
from torch import nn

def grey(num_classes, channels=1):
    layers = [nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))

def colour(num_classes):
    return grey(num_classes, 3)

def four(num_classes):
    return grey(num_classes, 4)
"""
MEAN, STD = 0.13, 0.31
COMMON = ["model=custom", "model.weights=random", "model.classes=labels.txt", "device=cpu", "paths.results_dir=out"]
COMMON += ["model.transform.size=32", "model.transform.resize=32"]
ONE = ["model.factory=grey_nets:grey", f"model.mean=[{MEAN}]", f"model.std=[{STD}]"]
FOLDER = ["dataset=folder", "dataset.root=images", "dataset.transform.size=32", "chunk_size=4"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "grey_nets.py").write_text(CODE)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    rng = np.random.default_rng(0)
    for name in [*(f"images/{name}/{i}.png" for name in NAMES for i in range(2)), "photo.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        values = np.kron(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
        Image.fromarray(values).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("grey_nets", None)


def oracle() -> nn.Module:
    """The network that `ONE` makes, without wcx."""
    torch.manual_seed(0)
    return sys.modules["grey_nets"].grey(3).eval()


def in_grey(path: Path, size: int = 32) -> torch.Tensor:
    """Pixels (1, size, size) in [0, 1], by Pillow alone."""
    image = Image.open(path).convert("RGB").convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))[None].float() / 255


def ask(*arguments: str) -> None:
    overrides = photo.complete([*arguments, *COMMON])
    application.check_overrides(overrides)
    run.run(application.compose(overrides))


def refused(*arguments: str) -> str:
    with pytest.raises(WcxError) as caught:
        ask(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_of_one_size_on_a_folder_is_told_the_datasets_size(folder: Path) -> None:
    """Its own transform is a photograph's; the folder's is 224 unless given."""
    Path("one_size.py").write_text(
        CODE.replace("nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32", "nn.Flatten(), nn.Linear(2048")
    )
    arguments = ["model.factory=one_size:grey", *ONE[1:], *FOLDER, *COMMON, "experiment=insertion_deletion", "limit=2"]
    try:
        wrong = application.compose([*arguments, "dataset.transform.size=40"])
        with pytest.raises(
            WcxError, match=r"failed on 1 image.* of 40x40 .*dataset\.transform\.size.*model\.transform\.size=32"
        ):
            run.run(wrong)
        run.run(application.compose(arguments))
    finally:
        sys.modules.pop("one_size", None)


def test_a_photograph_in_colour(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wcx")
    square = Image.open("photo.png").resize((40, 40))
    square.save("photo.png")
    ask("image=photo.png", *ONE)
    with np.load("out/images/photo-custom.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    assert torch.equal(arrays["pixels"], in_grey(folder / "photo.png"))
    with torch.no_grad():
        logits = oracle()((arrays["pixels"][None] - MEAN) / STD)[0]
    torch.testing.assert_close(arrays["logits"], logits)
    about = json.loads(Path("out/images/photo-custom.json").read_text())
    assert about["transform"] == {"kind": "crop", "size": 32, "resize": 32, "channels": 1}
    told = [record.getMessage() for record in caplog.records if "Pillow's L" in record.getMessage()]
    assert told == ["grey_nets:grey takes one channel: images in colour are converted to grey (Pillow's L)"]
    figure = np.array(Image.open("out/images/photo-custom.png").convert("RGB")).astype(int)
    height, width = figure.shape[:2]
    corner = figure[height // 10 : height // 6, width // 30 : width // 6]  # the photograph itself
    assert np.ptp(corner, axis=2).max() == 0, "shown in grey"
    assert np.ptp(corner) > 100


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "deeplift", "lrp", "gradcam"])
def test_every_kind_of_map(folder: Path, method: str) -> None:
    ask("image=photo.png", *ONE, f"method={method}")
    [file] = Path("out/images").glob("*.npz")
    with np.load(file) as arrays:
        assert arrays["weighted"].shape == ((2, 16, 16) if method == "gradcam" else (2, 1, 32, 32))
        assert np.isfinite(arrays["weighted"]).all()


@pytest.mark.usefixtures("undrawn")
def test_masking_on_a_folder(folder: Path) -> None:
    """Relative probabilities of the clean image, and with the pixels against t_1 set to the mean colour, by hand."""
    arguments = [
        *FOLDER,
        "threshold=0",
        "save_maps=true",
        "baseline_space=normalized",
        "cache=true",
        "paths.cache_dir=c",
    ]
    ask(*arguments, *ONE)
    [path] = Path("out").rglob("chunk-*0.csv")
    rows = pd.read_csv(path)
    net, files = oracle(), sorted(Path("images").rglob("*.png"))
    with np.load(path.with_suffix(".npz")) as file:
        maps = dict(zip(file["index"].tolist(), torch.from_numpy(file["maps"]), strict=True))
    for _, row in rows.iterrows():
        pixels = in_grey(files[int(row["index"])])
        with torch.no_grad():
            logits = net((pixels[None] - MEAN) / STD)[0]
            first, second = logits.sort(descending=True).indices[:2].tolist()
            assert (row["t_1"], row["t_2"]) == (first, second)
            assert row["y_t1"] == pytest.approx(float(logits[first]), abs=1e-5)
            large = nn.functional.interpolate(maps[int(row["index"])][None, :1], (32, 32), mode="bilinear")[0, 0]
            hidden = torch.where(large < 0, torch.tensor(MEAN), pixels)
            changed = net((hidden[None] - MEAN) / STD)[0]
        relative = float(torch.sigmoid(changed[first] - changed[second]))
        assert row["relative_probability/t_1/zeros/positive"] == pytest.approx(relative, abs=1e-5)
    assert list(Path("out").rglob("selected.png"))
    ask(*arguments, *ONE)  # from its records
    ask(*arguments, "model.factory=grey_nets:colour")  # the cache in colour is another
    assert len(list(Path("c").glob("*-sums.npy"))) == 2


def test_sign_perturbation_on_a_folder(folder: Path) -> None:
    ask(*FOLDER, *ONE, "experiment=sign_perturbation", "method=gradient", "epsilon=0.01", "iterations=[1]")
    rows = pd.concat(map(pd.read_csv, sorted(Path("out").rglob("chunk-*.csv"))))
    net, files = oracle(), sorted(Path("images").rglob("*.png"))
    assert len(rows) == 6
    for _, row in rows.iterrows():
        pixels = in_grey(files[int(row["index"])])[None].requires_grad_()
        logits = net((pixels - MEAN) / STD)[0]
        t = int(row["label"])
        assert row["y_t"] == pytest.approx(float(logits[t]), abs=1e-5)
        others = [s for s in range(3) if s != t]
        [gradient] = torch.autograd.grad(logits[t] - logits[others].logsumexp(0), pixels)
        with torch.no_grad():
            after = net(((pixels + 0.01 * gradient.sign()).clamp(0, 1) - MEAN) / STD)[0]
        assert row["y_t/1"] == pytest.approx(float(after[t]), abs=1e-5)


def test_the_gallery(folder: Path) -> None:
    ask(*FOLDER, *ONE, "experiment=gallery", "figures=[fig1]")
    assert list(Path("out").rglob("*.png"))


def test_a_grey_photograph_stays_what_it_is(folder: Path) -> None:
    Image.open("photo.png").convert("L").save("photo.png")
    transform = as_transform({"kind": "squash", "size": 32, "channels": 1})
    stored = Image.open("photo.png")
    expected = np.array(stored.resize((32, 32), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    assert np.array_equal(transform(stored.convert("RGB"))[0].numpy(), expected)


def test_channels_are_part_of_a_transform_only_where_they_are_not_three(folder: Path) -> None:
    """So that records and caches in colour are what they were."""
    colour, grey = (datasets.load("folder", "images", channels=count) for count in (3, 1))
    assert type(colour.transform) is Transform
    assert torch.equal(grey[0][0], in_grey(grey.path(0), 224))
    assert colour[0][0].shape == (3, 224, 224)
    assert torch.equal(cached(grey, "c")[0][0], grey[0][0])
    assert datasets.load("parts", ".", channels=1)[0][0].shape[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.factory=grey_nets:grey"], "in 3 channel(s)|first convolution takes 1 channel(s)|[0.5]."),
        ([*ONE[1:], "model.factory=grey_nets:colour"], "takes 3 channel(s): give|[0.5, 0.5, 0.5]."),
        (
            [ONE[0], ONE[1]],
            "model.mean=[0.13] and model.std=[0.229, 0.224, 0.225]|as many as the network takes channels",
        ),
        ([ONE[0], "model.mean=0.13", ONE[2]], "model.mean=0.13: give a list of numbers, one a channel"),
        ([ONE[0], "model.mean=[]", "model.std=[]"], "model.mean=[]: give a list of numbers"),
        ([ONE[0], "model.mean=[a]", ONE[2]], "model.mean=['a']: give a list"),
        ([ONE[0], ONE[1], "model.std=[0]"], "a standard deviation is positive"),
        (
            ["model.factory=grey_nets:four", "model.mean=[0.5,0.5,0.5,0.5]", "model.std=[1,1,1,1]"],
            "in colour (3 channels) or grey (1), and the network takes 4",
        ),
    ],
)
@pytest.mark.parametrize("images", [["image=photo.png"], FOLDER])
def test_channels_that_do_not_fit_are_one_line(folder: Path, images: list[str], words: list[str], message: str) -> None:
    text = refused(*images, *words)
    assert all(part in text for part in message.split("|")), text


@pytest.mark.parametrize("count", [1, 2, 4, 5])
def test_any_number_of_channels_in_python(folder: Path, count: int) -> None:
    """`custom.load` and `Normalized` know no colours; only files are grey or in colour."""
    (folder / "more_nets.py").write_text(CODE.replace("channels=1", f"channels={count}"))
    mean, std = [0.1 * i for i in range(count)], [0.5 + 0.1 * i for i in range(count)]
    loaded = custom.load("more_nets:grey", "labels.txt", "random", mean=mean, std=std, transform={"size": 32})
    sys.modules.pop("more_nets")
    x = torch.rand(2, count, 32, 32)
    m, s = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    torch.testing.assert_close(loaded.model(x), loaded.net((x - m) / s))
    assert wcx.explain(loaded.model, x, 0, "gradient").shape == x.shape
    integers = Normalized(loaded.net, [0] * count, [1] * count)
    assert integers.mean.dtype == torch.float32
    torch.testing.assert_close(integers(x), loaded.net(x))
