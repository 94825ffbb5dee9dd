"""Networks of timm, Hugging Face and CLIP by name: own transform, own class names, random weights, files, folders, mistakes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import wcx
from wcx import models
from wcx.cli import application, opening
from wcx.cli import main as command_line
from wcx.datasets import as_transform, imagenet
from wcx.errors import WcxError
from wcx.models import libraries

timm = pytest.importorskip("timm", reason="make test-extras")
transformers = pytest.importorskip("transformers", reason="make test-extras")
open_clip = pytest.importorskip("open_clip", reason="make test-extras")
pytestmark = pytest.mark.usefixtures("one_thread")
VIT = "vit_tiny_patch16_224"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face ViT as save_pretrained leaves it."""
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label={0: "tench", 1: "crow", 2: "crow's nest"}, label2id={"tench": 0, "crow": 1, "crow's nest": 2},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config)
    nn.init.normal_(network.classifier.weight)
    network.save_pretrained(tmp_path / "small-vit")
    size, half = {"height": 32, "width": 32}, [0.5, 0.4, 0.3]
    transformers.ViTImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(tmp_path / "small-vit")
    return tmp_path / "small-vit"


def test_timm_takes_its_own_transform_and_class_names() -> None:
    loaded = models.load(VIT, library="timm", weights="random", img_size=64)
    assert as_transform(loaded.transform) == as_transform(
        {"kind": "crop", "size": 64, "resize": 71, "interpolation": "bicubic"}
    ), "64 / 0.9"
    assert loaded.model.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert loaded.class_names == models.distinct(imagenet.class_names())
    assert loaded.outputs(imagenet.class_names()) == list(range(1000))
    assert (loaded.name, loaded.weights) == (VIT, "random")
    again, another = (models.load(VIT, library="timm", weights="random", img_size=64, seed=s) for s in (0, 1))
    assert loaded.weights_hash == again.weights_hash != another.weights_hash


def test_names_of_more_classes_are_timms() -> None:
    names = libraries.get("timm")("vit_tiny_patch16_224.augreg_in21k", {}).class_names
    assert len(names) == 21843
    assert "goldfish" in names[2000:] or any("goldfish" in name for name in names)


def test_timms_weights_from_a_file_or_the_folder_of_weights(tmp_path: Path) -> None:
    network = timm.create_model(VIT, img_size=32)
    torch.save(network.state_dict(), tmp_path / f"{VIT}.pth")
    for weights in ("auto", f"{VIT}.pth", tmp_path / f"{VIT}.pth"):
        loaded = models.load(VIT, library="timm", weights=weights, weights_dir=tmp_path, img_size=32)
        assert loaded.weights == f"file: {VIT}.pth"
        images = torch.rand(1, 3, 32, 32)
        torch.testing.assert_close(loaded.model(images), network.eval()((images - 0.5) / 0.5))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vit_tony_patch16_224", {}, "model of timm.*vit_tiny_patch16_224"),
        ("vit_small_patch14_dinov2", {"weights": "random"}, "has no classifier, only features; .* recipe=head"),
        (f"{VIT}.augreg", {"weights": "random"}, f"unknown weights of {VIT} .* Choose one of: {VIT}.augreg_in21k"),
        (VIT, {"weights": "mine.pth"}, "weights file not found: mine.pth"),
        (VIT, {"weights": "IMAGENET1K_V1"}, f"weights of {VIT}"),
        (VIT, {"weights": "random", "patches": 3}, "cannot be built with .*patches"),
    ],
)
def test_a_mistake_with_timm_is_one_line(name: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(WcxError, match=message) as caught:
        models.load(name, library="timm", **arguments)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        WcxError, match=rf"no weights for {VIT}: no {VIT}.\* in weights_dir, and .* or random"
    ) as caught:
        models.load(VIT, library="timm", weights_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["timm", "hf", "clip"])
def test_without_the_library_one_line_names_the_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("timm", "transformers", "open_clip"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    extra = {"timm": "timm", "hf": "transformers", "clip": "clip"}[library]
    with pytest.raises(WcxError, match=rf"model={library} needs \w+: pip install 'wcx\[{extra}\]'"):
        libraries.get(library)("anything", {"prompts": ["a"]})


def test_a_hugging_face_folder(folder: Path) -> None:
    """Trap 6: outputs are objects with .logits; normalisation and size are the folder's own."""
    loaded = models.load(str(folder), library="hf")
    assert (loaded.name, loaded.weights) == ("small-vit", f"pretrained: {folder}")
    assert loaded.class_names == ["tench", "crow", "crow's nest"]
    assert loaded.transform == {"kind": "squash", "size": 32}
    images = torch.rand(2, 3, 32, 32)
    same = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    centred = (images - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(loaded.model(images), same(centred).logits)
    for network, pixels in ((loaded.model, images), (same, centred)):  # as it is, too
        run = wcx.Explainer(network, "gradcam")(pixels)
        assert run.activation.shape == (2, 16, 4, 4)
        assert run.explain(wcx.cotangent(run.logits, 1)).shape == (2, 4, 4)


def test_a_folder_without_a_head_is_one_line(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["ViTModel"]}))
    with pytest.raises(WcxError, match=r"small-vit has no classifier, only features; .* recipe=head"):
        models.load(str(folder), library="hf")
    assert models.load(str(folder), library="hf", num_classes=7).net.classifier.out_features == 7


def test_a_folder_without_preprocessing_is_one_line_or_told(folder: Path) -> None:
    for file in folder.glob("*processor*"):
        file.unlink()
    with pytest.raises(WcxError, match=r"no preprocessor_config.json; give model.mean=\[...\]"):
        models.load(str(folder), library="hf")
    stated = {"mean": [0.5] * 3, "std": [0.5] * 3, "transform": {"kind": "squash", "size": 32}}
    assert models.load(str(folder), library="hf", **stated).transform == stated["transform"]


def test_no_such_folder_or_hub_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WcxError, match="no configuration of nobody/nothing") as caught:
        models.load("nobody/nothing", library="hf")
    assert "\n" not in str(caught.value)


def test_weights_without_a_head_are_refused(folder: Path, tmp_path: Path) -> None:
    """transformers leaves what a file lacks random, and the network was called pretrained."""
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    state = load_file(lacking / "model.safetensors")
    save_file({key: value for key, value in state.items() if "classifier" not in key}, lacking / "model.safetensors")
    with pytest.raises(WcxError, match=r"lack 2 of the network's parameters \(classifier.bias\)") as caught:
        models.load(str(lacking), library="hf")
    assert "\n" not in str(caught.value)
    assert models.load(str(lacking), library="hf", num_classes=3).net.classifier.out_features == 3


def test_a_backbone_that_lacks_parameters_beside_a_new_head_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    state = load_file(lacking / "model.safetensors")
    first = next(key for key in state if key.endswith("query.weight"))
    save_file({key: value for key, value in state.items() if key != first}, lacking / "model.safetensors")
    for source, expected in ((folder, False), (lacking, True)):
        with caplog.at_level(logging.WARNING, "wcx"):
            models.load(str(source), library="hf", num_classes=3)
        assert ("lack 1 of the network's parameters (vit." in caplog.text) is expected


@pytest.fixture
def small_clip(tmp_path: Path) -> str:
    """A small CLIP under a name of open_clip's."""
    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    (tmp_path / "small-clip.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "small-clip.json")
    return "small-clip"


def test_sentences_as_classes(small_clip: str, tmp_path: Path) -> None:
    """Logits are the scaled cosines of open_clip's own encoders."""
    prompts = ["a red bird", "a black bird, far away", "no bird"]
    loaded = models.load(small_clip, library="clip", weights="random", prompts=prompts, seed=3)
    assert loaded.class_names == prompts
    with torch.random.fork_rng():
        torch.manual_seed(3)
        whole = open_clip.create_model(small_clip).eval()
    images = torch.rand(2, 3, 32, 32)
    pixels = (images - loaded.model.mean) / loaded.model.std
    image, text = whole.encode_image(pixels), whole.encode_text(open_clip.get_tokenizer(small_clip)(prompts))
    cosines = nn.functional.cosine_similarity(image[:, None], text[None], dim=-1)
    torch.testing.assert_close(loaded.model(images), whole.logit_scale.exp() * cosines, rtol=1e-4, atol=1e-4)
    run = wcx.Explainer(loaded.model, "gradcam")(images)
    assert (run.layer, run.activation.shape) == ("visual.transformer.resblocks.1", (2, 64, 4, 4))
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    again = models.load(small_clip, library="clip", weights="random", prompts=tmp_path / "prompts.txt", seed=3)
    assert again.weights_hash == loaded.weights_hash
    fewer = models.load(small_clip, library="clip", weights="random", prompts=prompts[:2], seed=3)
    assert fewer.weights_hash != loaded.weights_hash, "records of other sentences are other records"


@pytest.mark.parametrize(
    ("name", "weights", "mean", "transform"),
    [
        ("ViT-B-16-SigLIP", "auto", 0.5, {"kind": "squash", "interpolation": "bicubic"}),
        ("PE-Core-B-16", "auto", 0.5, {"kind": "squash"}),
        ("ViT-L-14", "laion2b_s32b_b82k", 0.5, {"kind": "crop", "interpolation": "bicubic"}),
        ("ViT-L-14", "datacomp_xl_s13b_b90k", 0.48145466, {"kind": "crop", "interpolation": "bicubic"}),
        ("MobileCLIP-S1", "random", 0.0, {"kind": "crop"}),
    ],
)
def test_a_clip_takes_images_as_its_weights_do(name: str, weights: str, mean: float, transform: dict[str, str]) -> None:
    side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    network = libraries.get("clip")(name, {"prompts": ["a", "b"]}, None, weights)
    assert (network.mean[0], network.transform) == (mean, {**transform, "size": side, "resize": side})


def test_a_clip_is_not_built_with_another_activation_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip only warns, and the weights give other similarities."""
    asked: list[str] = []

    def refused(_name: str, pretrained: str | None = None, **_: object) -> None:
        asked.append(str(pretrained))
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", refused)
    sentences = {"library": "clip", "prompts": ["a", "b"]}
    with pytest.raises(WcxError, match=r"weights openai of ViT-B-32 are .*: give model.name=ViT-B-32-quickgelu"):
        models.load("ViT-B-32", weights="openai", **sentences)
    with pytest.raises(WcxError, match=r"weights openai of RN50 are .*: give model.name=RN50-quickgelu"):
        models.load("RN50", **sentences)
    assert not asked
    for name in ("ViT-B-32", "ViT-B-32-quickgelu", application.compose(["model=clip"]).model.name):
        with pytest.raises(WcxError, match=f"no weights for {name}"):
            models.load(name, **sentences)
    assert asked == ["laion2b_e16", "openai", "openai"]


def test_clip_without_sentences_takes_the_datasets_class_names(small_clip: str) -> None:
    loaded = models.load(small_clip, library="clip", weights="random", classes=["crow", "tench"], template="a {}")
    assert loaded.class_names == ["crow", "tench"]
    with pytest.raises(WcxError, match=r"model=clip needs sentences: model.prompts=\["):
        models.load(small_clip, library="clip", weights="random")


@pytest.mark.parametrize("template", ["a bird", "a {x}", "a {} or {}", "a {} {", "{0}", ""])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    """Without one all classes were one sentence; others ended in a traceback."""
    with pytest.raises(WcxError, match=r"model\.template=.* with \{\} once") as caught:
        libraries.get("clip")("ViT-B-32", {"template": template}, ["crow", "tench"])
    assert "\n" not in str(caught.value)


def test_a_sentence_twice_is_refused(tmp_path: Path) -> None:
    """Named apart, they were encoded as "a bird (0)" and "a bird (1)"."""
    (tmp_path / "prompts.txt").write_text("a bird\na dog\na bird\n")
    for prompts in (["a bird", "a dog", "a bird"], tmp_path / "prompts.txt"):
        with pytest.raises(WcxError, match=r"model\.prompts has 'a bird' twice"):
            libraries.get("clip")("ViT-B-32", {"prompts": prompts})


def test_a_folder_of_another_family_is_no_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers only warns, and leaves all weights random."""
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda _: None)
    for weights in ("random", "auto"):
        with pytest.raises(WcxError, match="is a vit, and transformers' CLIPs alone are read"):
            models.load(str(folder), library="clip", weights=weights, prompts=["a", "b"])


def test_from_the_command_line_configuration(folder: Path, small_clip: str, tmp_path: Path) -> None:
    """Dataset and network fit: the size is the network's, the kind of transform the protocol's."""
    base = ["dataset=parts", "dataset.size=64", f"paths.checkpoints_dir={tmp_path}", "model.weights=random"]
    for arguments, size, outputs in (
        (["model=timm", f"model.name={VIT}", "+model.img_size=64"], 64, 20),
        (["model=clip", f"model.name={small_clip}"], 32, 20),
    ):
        cfg = application.compose([*base, *arguments])
        dataset = opening.open_dataset(cfg, "test")
        loaded = opening.open_model(cfg, dataset)
        assert dataset[0][0].shape == (3, size, size)
        assert loaded.model(dataset[0][0][None]).shape == (1, outputs)
        assert opening.knows(cfg, dataset.class_names) == (arguments[0] == "model=clip")


def test_a_name_among_a_thousand_is_a_short_line() -> None:
    with pytest.raises(WcxError) as caught:
        models.load("vit_tny_patch16_224", library="timm")
    assert f"There are {len(timm.list_models())}; the nearest: {VIT}" in str(caught.value)
    assert len(str(caught.value)) < 300


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Return exit code, output and errors of `wcx ...`."""
    monkeypatch.setattr("sys.argv", ["wcx", *arguments])
    try:
        command_line()
    except SystemExit as end:
        return int(end.code or 0), *capsys.readouterr()
    return 0, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["model=timm", f"model.name={VIT}", "+model.num_classes=0"], "model.num_classes is not to be given"),
        (["model=clip", "model.prompts=none.txt"], "file of class names not found: none.txt; check model.prompts."),
        (
            ["model=clip", "model.prompts=[a crow,a tench]"],
            "recipe=head; or let the sentences be the classes: class_map=none",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, errors = command(
        monkeypatch, capsys, "dataset=parts", *arguments, f"paths.checkpoints_dir={tmp_path}", "limit=2"
    )
    assert code == 2
    assert line in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_a_photograph_by_a_folder_without_class_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its size is the network's, its outputs are numbers and not ImageNet's first classes; the JSON says which rules ran."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {index: f"LABEL_{index}" for index in range(3)}
    (folder / "config.json").write_text(json.dumps(config))
    Image.new("RGB", (50, 40), (200, 60, 20)).save(tmp_path / "a.png")
    arguments = (f"image={tmp_path / 'a.png'}", "model=hf", f"model.name={folder}", "method=lrp")
    code, output, errors = command(monkeypatch, capsys, "photo", *arguments, f"paths.results_dir={tmp_path}")
    assert code == 0, errors
    assert "Why class " in output
    [file] = tmp_path.glob("images/*.json")
    assert json.loads(file.read_text())["options"] == {"composite": "attnlrp"}
