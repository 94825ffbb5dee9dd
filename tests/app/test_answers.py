"""What the page `wcx app` computes, without the page: answers, what makes the same, odd photographs, visitors at once."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_photo import CODE, NAMES, noise
from wcx.app import answers, html
from wcx.app.answers import Answer, Asked, Upload
from wcx.app.networks import MOST, Network, Networks
from wcx.cli import application, start
from wcx.cli.commands import app, photo
from wcx.errors import WcxError
from wcx.experiments import photo as photo_ids
from wcx.experiments.pictures import View

SIZE = 48
RANDOM = ["model=small_cnn", "dataset=parts", "model.weights=random", "device=cpu"]  # 96 x 96


def opened(overrides: list[str]) -> Network:
    return app.opened("a network", application.compose(overrides, "app"), overrides)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """small_cnn with random weights; what it runs in is the current folder."""
    monkeypatch.chdir(tmp_path)
    return opened(RANDOM)


@pytest.fixture
def odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """A network of one's own whose classes have names that a command line might take for something else."""
    (tmp_path / "page_nets.py").write_text(CODE)
    classes = [*NAMES, "null", "12", 'say "x"', "'quoted'", "a\\b", "[x]", "50% ${y}", "true"]
    (tmp_path / "labels.txt").write_text("\n".join(classes), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    size = [f"model.transform.size={SIZE}", f"model.transform.resize={SIZE}", "device=cpu", "dataset=imagenet"]
    own = ["model=custom", "model.factory=page_nets:net", "model.weights=random", "model.classes=labels.txt"]
    yield opened([*own, *size])
    sys.modules.pop("page_nets", None)


def upload(name: str = "photo.png", **settings: object) -> Upload:
    buffer = io.BytesIO()
    noise((60, 50)).save(buffer, Path(name).suffix[1:], **settings)
    return Upload(name, buffer.getvalue())


def from_command_line(answer: Answer) -> dict[str, np.ndarray]:
    """The arrays that the answer's command writes."""
    Path(answer.upload.name).write_bytes(answer.upload.content)
    words = shlex.split(answer.command())
    assert words.pop(0) == "wcx"
    overrides = photo.complete([*words, "paths.results_dir=out"])
    application.check_overrides(overrides)
    photo.run(application.compose(overrides))
    [file] = Path("out/images").glob("*.npz")
    with np.load(file) as content:
        return dict(content)


def check_both_ways(found: Answer) -> None:
    """Command line and Python give the page's maps; a pass with other neighbours in memory rounds differently (float32)."""
    arrays, [target, rival] = from_command_line(found), found.picture.targets
    assert arrays["classes"].tolist() == [target, rival]
    view = View(found.asked.method, found.asked.contrast, "asked")
    close = {"rtol": 1e-4, "atol": 1e-6 * float(found.picture.raw[view].abs().max())}
    for key, each in ((found.asked.contrast, view), (f"{found.asked.contrast}_all", view._replace(foils="others"))):
        torch.testing.assert_close(torch.from_numpy(arrays[key]), found.picture.raw[each], **close)
        logits = torch.from_numpy(arrays[f"{key}_blurred_logits"])
        torch.testing.assert_close(logits, found.picture.hidden[each].logits, rtol=1e-4, atol=1e-5)
    lines: dict[str, object] = {}
    exec(compile(found.python(), "page", "exec"), lines)
    alone = found.picture.raw[View(found.asked.method, "original", "none")][0]
    torch.testing.assert_close(lines["maps"], torch.stack([alone, found.picture.raw[view][0]])[:, None], **close)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(method="linear_approximation", contrast="max", layer="features.2", strongest=0.4),
        Asked(method="input_x_gradient", contrast="mean"),
        Asked(method="lrp", contrast="finer"),
    ],
    ids=lambda asked: asked.method,
)
def test_command_line_and_python_make_the_same(network: Network, asked: Asked) -> None:
    first, second, third = network.classes[3], network.classes[7], network.classes[11]
    question = Asked(first, [second, third], asked.method, asked.contrast, asked.layer, asked.strongest)
    check_both_ways(answers.answer(network, upload("my photo, 1.png"), question))


@pytest.mark.usefixtures("undrawn")
def test_whatever_the_classes_are_called(odd_names: Network) -> None:
    names = list(odd_names.classes)
    for target, name in enumerate(names):
        found = answers.answer(odd_names, upload(), Asked(name, [other for other in names if other != name][:-1]))
        overrides = photo.complete(shlex.split(found.command())[1:])
        application.check_overrides(overrides)
        cfg = application.compose(overrides)
        assert photo_ids.class_id(cfg.target, names) == target, found.command()
        assert [photo_ids.class_id(foil, names) for foil in cfg.foils] == found.photograph.asked(0), found.command()
    check_both_ways(answers.answer(odd_names, upload(), Asked()))


def test_close_and_tiny_probabilities_are_told_apart_as_beside_the_maps(network: Network) -> None:
    """Whole percents would show 53%, 53%, 0%, 0%."""
    text = html.likeliest([(0, "auk", 0.5269), (1, "tern", 0.5261), (2, "<i>", 0.004), (3, "gull", 1e-6)])
    numbers = re.findall(r'<span>(.*?)</span> <span class="numbers">(.*?)</span>', text)
    assert numbers == [("auk", "0.527"), ("tern", "0.526"), ("&lt;i&gt;", "0.004"), ("gull", "&lt;0.001")]
    found = answers.answer(network, upload(), Asked())
    stated = re.findall(r'class="numbers">(\S+)</span>', html.likeliest(found.photograph.predictions()))
    before = re.search(r'class="numbers">(\S+) →', html.page(found))[1]
    assert stated[0] == before, "one form on the whole page"


def test_left_out_are_the_likeliest_and_the_likeliest_other(network: Network) -> None:
    found = answers.answer(network, upload(), Asked())
    likeliest = [name for _, name, _ in found.photograph.predictions()]
    assert found.photograph.pair == likeliest[:2]
    assert found.foils == likeliest[1:2]
    again = answers.answer(network, upload(), Asked(likeliest[2], [likeliest[2]]))
    assert again.foils == likeliest[:1], "a target is no foil of its own"


def test_where_no_comparison_speaks_for_the_default_the_page_says_so_as_the_command_does(tmp_path: Path) -> None:
    overrides = ["model=mobilenet_v3_small", "model.weights=random", "device=cpu", "dataset=imagenet"]
    network = opened(overrides)
    [remark] = photo.remarks(application.compose(overrides, "app"))
    for asked, is_said in (
        (Asked(), True),
        (Asked(layer=network.layer), True),
        (Asked(layer="features.10"), False),
        (Asked(method="gradcam"), False),
    ):
        assert (remark in html.page(answers.answer(network, upload(), asked))) == is_said, asked
    assert opened(RANDOM).remarks == []


def test_a_layer_of_the_command_line_is_the_page_s() -> None:
    typed = app.complete(["model=mobilenet_v3_small", "model.weights=random", "model.layer=features.10", "device=cpu"])
    assert opened(typed).layer == "features.10"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_the_pixels_most_against_a_class_are_hidden_first(network: Network, share: float) -> None:
    """Counted with a sort in numpy; the maps stay, and so does the earlier answer."""
    first = answers.answer(network, upload(), Asked())
    found = answers.hidden(first, share)
    assert first.asked.strongest == 1
    assert found.picture.raw is first.picture.raw
    for view, maps in first.picture.maps.items():
        whole = first.picture.hidden[view].share
        for i, attribution in enumerate(maps.numpy()):
            changed = (found.picture.hidden[view].pixels[i] != found.picture.pixels).any(0).numpy()
            most = round(share * int((attribution < 0).sum()))
            assert found.picture.hidden[view].share[i] == pytest.approx(most / attribution.size)
            assert changed.sum() <= most, "a blurred pixel may be what it was"
            assert attribution[changed].max(initial=-np.inf) <= np.sort(attribution, axis=None)[max(most - 1, 0)]
            assert whole[i] == pytest.approx((attribution < 0).mean())
    [sentence, *_] = found.photograph.sentences()
    assert ("most strongly against" in sentence) == (0 < share < 1)
    assert sentence.startswith("Nothing is masked") == (share == 0)
    asked_at_once = answers.answer(network, upload(), Asked(strongest=share))
    assert asked_at_once.photograph.sentences() == found.photograph.sentences()


def test_what_follows_a_question_keeps_its_maps_or_looks_for_the_layer_again(network: Network) -> None:
    network, photograph = replace(network, layer=None), upload()
    first = answers.answer(network, photograph, Asked())
    share, method, layer = (
        answers.following(first, network, photograph, replace(first.shown, **change))
        for change in ({"strongest": 0.5}, {"method": "gradcam"}, {"layer": "features.1"})
    )
    assert share.picture.raw is first.picture.raw
    assert share.asked.strongest == 0.5
    assert method.asked.layer is None
    assert "model.layer" not in method.command()
    assert (layer.asked.layer, layer.shown.layer) == ("features.1", "features.1")


def test_a_share_that_is_none_is_one_line(network: Network) -> None:
    with pytest.raises(WcxError, match=r"strongest = 1\.5: give a share from 0 to 1"):
        answers.answer(network, upload(), Asked(strongest=1.5))


def test_two_visitors_at_once_get_the_answers_of_one_after_the_other(network: Network) -> None:
    """DeepLIFT's and LRP's hooks, left in the way of another's passes, would change its maps and its blurred images' logits."""
    classes, images = network.classes, [upload(), answers.examples()[3]]
    asked = [
        (images[i % 2], Asked(classes[i], [classes[i + 5]], method))
        for i, method in enumerate(["deeplift", "gradcam", "lrp", "input_x_gradient"] * 3)
    ]
    alone = [answers.answer(network, *question) for question in asked]
    with ThreadPoolExecutor(4) as visitors:
        at_once = list(visitors.map(lambda question: answers.answer(network, *question), asked))
    for expected, found in zip(alone, at_once, strict=True):
        assert found.picture.targets == expected.picture.targets
        for view, maps in expected.picture.raw.items():
            torch.testing.assert_close(found.picture.raw[view], maps, rtol=0, atol=0)
            logits = expected.picture.hidden[view].logits
            torch.testing.assert_close(found.picture.hidden[view].logits, logits, rtol=0, atol=0)


def saved(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = Image.new("RGB", (60, 60), "red")
    image.paste("blue", (0, 0, 30, 60))  # the left half
    return saved(image, "JPEG", exif=exif)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("telephone.jpg", lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "it is HEIC.*; save it as JPEG"),
        ("words.jpg", lambda: b"no image at all", "cannot read image words.jpg: not an image file"),
        ("empty.png", lambda: b"", "cannot read image empty.png: not an image file"),
        (
            "half.jpg",
            lambda: saved(noise((400, 300)), "JPEG")[:3000],
            "cannot read image half.jpg: image file is truncated",
        ),
        ("bomb.png", lambda: saved(Image.new("1", (20000, 20000)), "PNG"), "exceeds limit of 178956970 pixels"),
    ],
)
def test_what_is_no_image_is_one_line(network: Network, name: str, content: Callable[[], bytes], message: str) -> None:
    with pytest.raises(WcxError, match=message) as caught:
        answers.answer(network, Upload(name, content()), Asked())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("60_megapixels.jpg", lambda: saved(Image.new("RGB", (10000, 6000), "green"), "JPEG")),
        ("cmyk.jpg", lambda: saved(noise((60, 50)).convert("CMYK"), "JPEG")),
        ("dot.png", lambda: saved(Image.new("RGB", (1, 1), "red"), "PNG")),
        ("grey.png", lambda: saved(noise((60, 50), 1), "PNG")),
    ],
)
def test_odd_photographs_are_answered(network: Network, name: str, content: Callable[[], bytes]) -> None:
    found = answers.answer(network, Upload(name, content()), Asked())
    text = html.page(found).replace("&#39;", "'")
    assert found.photograph.sentences()[0] in text
    assert f"small_cnn · random · linear approximation at {found.photograph.layer}" in text, (
        "whose weights these are, stand-ins too"
    )


def test_a_turned_photograph_is_seen_upright(network: Network) -> None:
    """Stored with its left half blue, to be turned clockwise: its upper half is blue."""
    pixels = answers.answer(network, Upload("turned.jpg", turned()), Asked()).picture.pixels
    assert pixels[2, :40].mean() > 0.9
    assert pixels[0, 56:].mean() > 0.9


def test_files_are_the_figure_the_maps_and_the_drawn_bird(network: Network) -> None:
    bird = answers.examples()[2]
    files = answers.answer(network, bird, Asked()).files()
    assert [Path(name).suffix for name in files] == [".png", ".pdf", ".npz", ".png"]
    png, pdf, npz, own = files.values()
    assert Image.open(io.BytesIO(png)).width > 1000
    assert pdf.startswith(b"%PDF")
    assert {"weighted", "weighted_all", "original", "classes", "logits", "pixels"} <= set(np.load(io.BytesIO(npz)))
    assert own == bird.content
    assert len(answers.answer(network, upload(), Asked()).files()) == 3, "a visitor has the photograph already"


def test_drawn_birds_are_what_the_dataset_draws(network: Network) -> None:
    from wcx.datasets import parts

    drawn = parts.load(Path(), "test")
    for i, bird in enumerate(answers.examples()):
        assert np.array_equal(Image.open(io.BytesIO(bird.content)), np.asarray(drawn.image(2 * i)))


def test_names_on_the_page_are_text(odd_names: Network) -> None:
    """A class or file called <script> is shown, not run."""
    network = Network(
        "n", odd_names.loaded, ["<script>alert(1)</script>", *odd_names.classes[1:]], odd_names.transform, [], ""
    )
    found = answers.answer(network, upload("<b>.png"), Asked("<script>alert(1)</script>"))
    assert "<script>" not in html.page(found) + html.files(found) + html.line("<script>")
    assert "<b>" not in html.files(found)


def test_networks_are_opened_once_and_some_are_kept(network: Network) -> None:
    calls: list[str] = []

    def opener(name: str) -> Network:
        calls.append(name)
        if name == "nothing":
            raise WcxError("no such network")
        return Network(name, network.loaded, network.classes, network.transform, [], "")

    networks = Networks(network, opener)
    assert networks.get(network.name) is network
    with ThreadPoolExecutor(4) as visitors:
        assert len(set(visitors.map(networks.get, ["a"] * 8))) == 1
    assert calls == ["a"]
    with pytest.raises(WcxError):
        networks.get("nothing")
    for i in range(MOST):
        networks.get(str(i))
    networks.get("a")
    assert calls.count("a") == 2
    assert networks.get(network.name) is network


@pytest.mark.parametrize(
    "name", ["hf//etc", "hf/..", "timm/../x", "hf/a/b/c", "hf/wcx", "custom", "/etc/passwd", "clip"]
)
def test_a_visitor_opens_no_path(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(WcxError, match=r"no path|unknown network"):
        app.by_name(name)


def test_small_cnn_is_trained_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command of `wcx demo`; what stands for the training here writes nothing."""
    trained: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        app.finetune, "run", lambda cfg: trained.append((cfg.dataset.name, cfg.model.name, cfg.recipe.name))
    )
    with pytest.raises(WcxError, match="no checkpoint of small_cnn"):
        opened(["model=small_cnn", "dataset=parts", f"paths.checkpoints_dir={tmp_path}"])
    assert trained == [("parts", "small_cnn", "demo")]


def test_without_gradio_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "argv", ["wcx app", "port=0"])
    with pytest.raises(SystemExit) as left:
        start("app")
    assert left.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "wcx app needs gradio: pip install 'wcx[app]'" in line
