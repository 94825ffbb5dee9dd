"""One's own photographs: image=... from the command line's text to figure, maps and numbers, in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import nn

from wcx import Explainer, models
from wcx.cli import application
from wcx.cli.commands import photo
from wcx.errors import WcxError
from wcx.report.pictures import photo as pictures

NAMES = ["Laysan Albatross", "Möwe", "crow's nest", "cat, tabby"]
CODE = """
from torch import nn

def net(num_classes):
    layers = [nn.Conv2d(3, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))
"""
SIZE = 32


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network of one's own and a photograph."""
    (tmp_path / "photo_nets.py").write_text(CODE)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    noise((50, 40)).save(tmp_path / "photo.png")
    yield tmp_path
    sys.modules.pop("photo_nets", None)


def noise(size: tuple[int, int], channels: int = 3, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, channels), dtype=np.uint8)
    return Image.fromarray(np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))[: size[1], : size[0]].squeeze())


@pytest.mark.parametrize("style", ["colour", "print"])
def test_the_caption_says_without_a_colour_which_pixels_are_blurred(style: str) -> None:
    """In print, no pixel is told by its colour: each against the class is hatched, or bears a minus."""
    picture = SimpleNamespace(pixels=torch.zeros(3, SIZE, SIZE))
    photograph = SimpleNamespace(pair=NAMES[:2], scale="contrast", strongest=0.5, style=style, picture=picture)
    for in_pixels in (False, True):
        [blurred] = [line for line in pictures.caption(photograph, in_pixels) if line.startswith("Beside each")]
        assert "the strongest 50% of the pixels that speak against its class are blurred" in blurred


def ask(*arguments: str) -> list[dict]:
    """Run image=... with one's own small network; return what its JSON files hold."""
    own = ["model=custom", "model.factory=photo_nets:net", "model.weights=random", "model.classes=labels.txt"]
    size = [f"model.transform.size={SIZE}", f"model.transform.resize={SIZE}", "paths.results_dir=out", "device=cpu"]
    overrides = photo.complete([*arguments, *own, *size])
    application.check_overrides(overrides)
    photo.run(application.compose(overrides))
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("out/images").glob("*.json"))]


def test_numbers_maps_and_words_agree(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The blurred images are made again here, from the raw maps, pixel by pixel rule and matrix by matrix."""
    [about] = ask("image=photo.png")
    with np.load("out/images/photo-custom.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    net = sys.modules["photo_nets"].net
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net(4).eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    logits = model(((arrays["pixels"] - mean) / std)[None])[0]
    torch.testing.assert_close(arrays["logits"], logits.detach(), rtol=1e-4, atol=1e-5)
    order = logits.argsort(descending=True).tolist()
    assert arrays["classes"].tolist() == order[:2]
    assert [one["id"] for one in about["predictions"]] == order
    assert about["question"] == f"Why {NAMES[order[0]]}, and not {NAMES[order[1]]}?"
    assert arrays["weighted"].shape == (2, 16, 16)  # found: the last convolution
    names = [name for name in ("original", "weighted", "weighted_all") for _ in (0, 1)]
    assert [answer["maps"] for answer in about["answers"]] == names
    for answer, i, name in zip(about["answers"], (0, 1) * 3, names, strict=True):
        large = nn.functional.interpolate(arrays[name][None, [i]], (SIZE, SIZE), mode="bilinear")[0, 0]
        assert answer["masked_fraction"] == pytest.approx(float((large < 0).double().mean()), abs=1e-6)
        after = arrays[f"{name}_blurred_logits"][i].double()
        own, other = order[i], order[1 - i]
        pair = after[[own, other]].exp()
        assert answer["share_after"] == pytest.approx(float(pair[0] / pair.sum()), abs=1e-6)
        assert answer["p_after"] == pytest.approx(float(after.softmax(0)[own]), abs=1e-6)
        assert f"from {answer['share_before']:.2f} to {answer['share_after']:.2f}" in answer["sentence"] or any(
            word in answer["sentence"] for word in ("leaves", "stays")
        )
    printed = capsys.readouterr().out
    assert all(sentence in printed for sentence in [about["question"], *about["sentences"]])
    with Image.open("out/images/photo-custom.png") as figure:
        assert figure.width == pytest.approx(1227, abs=2)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("method", ["input_x_gradient", "gradcam"])
def test_any_method_any_contrast_any_foils(folder: Path, method: str) -> None:
    given = ["target=crow's nest", "foils=[cat, tabby]", f"method={method}", "contrast=max"]
    with pytest.raises(WcxError, match="the model has no class 'cat'"):
        ask("image=photo.png", *given)
    given[1] = 'foils=["cat, tabby",1]'
    [about] = ask("image=photo.png", *given)
    assert about["target"] == {"id": 2, "class": "crow's nest"}
    assert about["foils"] == [1, 3]
    assert about["rival"]["id"] in (1, 3)
    assert [one["contrast"] for one in about["answers"]] == ["original"] * 2 + ["max"] * 4
    assert Path(f"out/images/photo-custom-{method}-max-why2-not3_1.png").is_file()
    shape = (2, 3, SIZE, SIZE) if method == "input_x_gradient" else (2, 16, 16)
    with np.load(f"out/images/photo-custom-{method}-max-why2-not3_1.npz") as file:
        assert file["max"].shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["target=albatros"],
            "no class 'albatros'. Did you mean 'Laysan Albatross'? Choose one of: Laysan Albatross, Möwe",
        ),
        (["target=MOWE"], "Did you mean 'Möwe'"),
        (["target=4"], "class id 4 is out of range: the model has 4 classes, 0 to 3"),
        (["target=-1"], "class id -1 is out of range"),
        (["target=Möwe", "foils=[Möwe]"], "no foil is left for target 1"),
        (["experiment=masking"], "image=... is an experiment of its own: leave experiment=masking out"),
        (["contrast=max", "tagret=1"], "unknown setting 'tagret'. Did you mean 'target'"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(WcxError) as caught:
        ask("image=photo.png", *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_a_thousand_names_those_are_told_that_resemble() -> None:
    from wcx.experiments.photo import class_id

    names = [f"class number {i}" for i in range(1000)] + ["Egyptian cat", "tiger cat", "Egyptian_mau", "crane", "crane"]
    assert class_id("egyptian CAT", names) == class_id("1000", names) == class_id(1000, names) == 1000
    assert class_id("Egyptian mau", names) == 1002
    with pytest.raises(
        WcxError, match=r"Did you mean 'Egyptian cat'.* Choose one of its 1005 classes, or an id\."
    ) as caught:
        class_id("egiptian cat", names)
    assert len(str(caught.value)) < 300
    with pytest.raises(WcxError, match="'crane' is the name of 2 classes; give an id: 1003, 1004"):
        class_id("crane", names)
    with pytest.raises(WcxError, match=r"no class 'qqqqqqqq'\. Choose one of its"):
        class_id("qqqqqqqq", names)


@pytest.mark.usefixtures("undrawn")
def test_odd_images_are_handled(folder: Path) -> None:
    """Each is explained; what its pixels are is the dataset tests' affair."""
    odd = folder / "Ünïcode 图, [a] 'b'"
    odd.mkdir()
    noise((40, 30), 1).save(odd / "grey.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (30, 40), dtype=np.uint16)).save(odd / "deep.png")
    noise((40, 30)).convert("CMYK").save(odd / "cmyk.jpg")
    noise((40, 30), 4).save(odd / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((40, 30)).save(odd / "turned.jpg", exif=exif)
    Image.new("RGB", (1, 1), "red").save(odd / "dot.bmp")
    Image.new("RGB", (1, 3000), "red").save(odd / "strip.png")
    frames = [noise((40, 30), seed=seed).convert("P") for seed in range(3)]
    frames[0].save(odd / "moving.GIF", format="GIF", save_all=True, append_images=frames[1:])
    (odd / "notes.txt").write_text("no image, not looked at")
    (odd / "._grey.png").write_text("macOS's shadow of a file")
    (odd / "folder.png").mkdir()
    found = ask(f"image={odd}")
    assert sorted(Path(one["image"]).name for one in found) == sorted(
        ["grey.png", "deep.png", "cmyk.jpg", "alpha.png", "turned.jpg", "dot.bmp", "strip.png", "moving.GIF"]
    )
    assert all(Path(one["image"]).parent == odd.resolve() for one in found)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("gone.jpg", "no image or folder at gone.jpg"),
        ("[photo.png,gone.jpg]", "no image or folder at gone.jpg"),
        ("empty", "no image in the folder empty"),
        ("words.jpg", "cannot read image words.jpg: not an image file"),
        (f"[{'x' * 300}]", "no image or folder at xxx"),
        (",".join(f"photo{i}.png" for i in range(500)), "no image or folder at photo0.png"),
        ("null", "experiment photo needs an image"),
        ("", "experiment photo needs an image"),
    ],
)
def test_what_is_no_image_is_one_line(folder: Path, image: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "words.jpg").write_text("no image")
    with pytest.raises(WcxError) as caught:
        ask(f"image={image}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("undrawn")
def test_unreadable_images_stop_or_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "words.jpg").write_text("no image")
    with pytest.raises(WcxError, match="on_error=skip"):
        ask("image=[photo.png,words.jpg]")
    assert len(ask("image=[photo.png,words.jpg]", "on_error=skip")) == 1
    assert "skipped: cannot read image words.jpg" in capsys.readouterr().err
    with pytest.raises(WcxError, match="none of the 1 images could be read"):
        ask("image=words.jpg", "on_error=skip")


@pytest.mark.usefixtures("undrawn")
def test_another_photograph_of_the_same_name_keeps_its_own_files(folder: Path) -> None:
    (folder / "b").mkdir()
    noise((50, 40), seed=1).save(folder / "b/photo.jpg")
    assert len(ask("image=photo.png")) == 1
    first = Path("out/images/photo-custom.json").read_bytes()
    found = ask("image=[b/photo.jpg,photo.png]")
    assert [Path(one["image"]).name for one in found] == ["photo.jpg", "photo.png"]  # photo-custom-2, photo-custom
    assert json.loads(first)["answers"] == found[1]["answers"]


def test_a_plan_computes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask("image=photo.png", "plan=true") == []
    assert "images: 1\nforward_passes: 7\nbackward_passes: 6" in capsys.readouterr().out
    assert ask("image=photo.png", "plan=true", "contrast=original") == []
    assert "images: 1\nforward_passes: 3\nbackward_passes: 2" in capsys.readouterr().out


def composed(*arguments: str) -> DictConfig:
    return application.compose(photo.complete(["image=photo.png", *arguments]))


def test_a_pair_of_classes_is_explained_a_stage_before_the_last_by_the_linear_approximation() -> None:
    assert composed("model=mobilenet_v2").pair_layer == "features.13"
    assert composed("model=mobilenet_v2").method.name == "linear_approximation"
    assert composed("model=mobilenet_v2", "method=gradcam").method.name == "gradcam"
    assert composed("model=mobilenet_v2", "model.layer=features.18").pair_layer == "features.18"
    assert composed("model=vgg16").pair_layer == "features.28", "no stage is named: the model's own"
    assert composed("model=torchvision", "model.name=resnet50").pair_layer is None, "it is looked for"


def test_where_no_comparison_speaks_for_the_default_a_sentence_says_so() -> None:
    assert photo.remarks(composed("model=mobilenet_v2")) == photo.remarks(composed("model=small_cnn")) == []
    for name in ("vgg16", "googlenet", "torchvision"):
        [line] = photo.remarks(composed(f"model={name}", *["model.name=resnet50"] * (name == "torchvision")))
        assert line.endswith(f"compared on mobilenet_v2, small_cnn, not on {name.replace('torchvision', 'resnet50')}.")
        assert "chosen by analogy" in line
        at_last = "at the last layer, since no stage before it is known here (model.layer=... names one)"
        assert (at_last in line) == (name != "googlenet")
    [line] = photo.remarks(composed("model=resnet18"))
    assert (
        line
        == "On resnet18 gradcam was measured better at this layer than linear_approximation (docs/results.md): method=gradcam."
    )
    assert photo.remarks(composed("model=resnet18", "method=gradcam")) == []
    for chosen in (["model=googlenet", "model.layer=inception5b"], ["model=vgg16", "model.layer=features.20"]):
        assert photo.remarks(composed(*chosen)) == [], "the user's choice"


@pytest.mark.parametrize(("name", "layer"), composed().pair_layers.items())
def test_the_stage_before_the_last_has_twice_its_grid(name: str, layer: str) -> None:
    if name == "small_cnn":
        pytest.skip("one grid in all of its last three blocks")
    network = models.load(name, weights="random", num_classes=2).model
    grids = [
        Explainer(network, "gradcam", place)(torch.rand(1, 3, 224, 224)).activation.shape[-2:]
        for place in (layer, composed(f"model={name}").model.layer)
    ]
    assert grids == [(14, 14), (7, 7)]


def test_imagenet_and_a_checkpoint(shared: Path, tmp_path: Path) -> None:
    """Pretrained weights know ImageNet's classes; a name with its blank and case is found among the thousand."""
    image = shared / "data/imagenet/val/n02124075/n02124075_Egyptian_cat.JPEG"
    overrides = photo.complete(
        [f"image={image}", "model=squeezenet1_1", "target=tiger cat", "foils=2", f"paths.results_dir={tmp_path}"]
    )
    photo.run(application.compose([*overrides, f"paths.weights_dir={shared / 'weights'}", "device=cpu"]))
    about = json.loads((tmp_path / "images/n02124075_Egyptian_cat-squeezenet1_1-why282-top2.json").read_text())
    assert about["predictions"][0]["class"] == "Egyptian cat"
    assert about["foils"] == [281, 285]
    assert about["rival"] == {"id": 285, "class": "Egyptian cat"}
    assert about["layer"] == "features.12"
