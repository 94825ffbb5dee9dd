"""Models: where weights come from, what is refused, checkpoints, and the YAMLs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image

from tests.training import tiny
from wcx import models, training
from wcx.errors import WcxError
from wcx.models import custom, weights

TINY = "squeezenet1_1"  # the smallest of torchvision's
META = {
    "model": TINY,
    "options": {},
    "dataset": "pets",
    "class_names": ["cat", "dog", "fish"],
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "weights": "random",
    "stand_in": False,
    "recipe": {"name": "quick"},
    "accuracy": 0.75,
    "transform": {"kind": "squash", "size": 64},
    "seed": 0,
}


@pytest.fixture
def net() -> torch.nn.Module:
    torch.manual_seed(3)
    return torchvision.models.get_model(TINY, weights=None)


def one_line(error: pytest.ExceptionInfo[WcxError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


DRAWN = tiny.Drawn("train")
DEVICES = {
    "load": lambda device: models.load("small_cnn", num_classes=3, device=device),
    "custom": lambda device: custom.load("tests.nets:residual", weights="random", classes="a\nb\nc", device=device),
    "finetune": lambda device: tiny.run(Path("none"), tiny.ALL, device=device),
    "plan": lambda device: training.plan(tiny.start(), DRAWN, DRAWN, tiny.ALL, Path("none"), device),
    "fit": lambda device: training.fit(tiny.start().net, DRAWN, tiny.ALL, indices=[0], device=device),
    "evaluate": lambda device: training.evaluate(tiny.start().net, DRAWN, device=device),
}


@pytest.mark.parametrize("entry", DEVICES)
@pytest.mark.parametrize(
    ("device", "problem"),
    [("gpu", "unknown device 'gpu'"), ("cuda:99", "is not there"), ("meta", "cannot be used here")],
)
def test_a_device_that_is_none_is_one_line_wherever_it_comes_in(entry: str, device: str, problem: str) -> None:
    with pytest.raises(WcxError, match=problem) as error:
        DEVICES[entry](device)
    assert "give" in one_line(error)


def test_normalised_model_equals_torchvision_after_its_own_preprocessing(net: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "mine.pth")
    loaded = models.load(TINY, weights=tmp_path / "mine.pth")
    pixels = torch.rand(2, 3, 64, 64)
    expected = net.eval()(
        torchvision.transforms.functional.normalize(pixels, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    torch.testing.assert_close(loaded.model(pixels), expected)
    assert loaded.model.model is loaded.net
    assert not loaded.net.training
    assert (loaded.weights, loaded.stand_in, loaded.class_names) == ("file: mine.pth", False, None)


def test_order_of_the_search(net: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_of(label: str) -> tuple[str, bool]:
        found = weights.resolve(TINY, label, tmp_path, "IMAGENET1K_V1")
        return found.label, found.stand_in

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    torch.save(net.features.state_dict(prefix="features."), tmp_path / f"{TINY}_features.pth")
    assert entry_of("auto") == (f"stand-in: {TINY}_features.pth", True)
    safetensors.torch.save_file(net.state_dict(), tmp_path / f"{TINY}.safetensors")
    assert entry_of("auto") == (f"stand-in: {TINY}.safetensors", True)
    official = tmp_path / "squeezenet1_1-b8a52dc0.pth"
    torch.save(net.state_dict(), official)
    assert entry_of("auto") == (f"stand-in: {official.name}", True), "the digits in its name are of other bytes"
    monkeypatch.setattr(weights, "_official", lambda entry, folder: weights.Weights(entry.name, official, entry.name))
    assert entry_of("auto") == entry_of("IMAGENET1K_V1") == ("IMAGENET1K_V1", False)
    assert entry_of("random") == ("random", False)
    assert weights.resolve(TINY, None, tmp_path, "IMAGENET1K_V1").label == "random"
    assert weights.resolve(TINY, f"{TINY}.safetensors", tmp_path, None).label == f"file: {TINY}.safetensors"


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, *_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(WcxError) as error:
        models.load("resnet18", weights_dir=tmp_path)
    assert all(part in one_line(error) for part in ("resnet18-f37072fd.pth", "no network", "WCX_WEIGHTS_DIR"))


def test_fine_tuning_keeps_all_but_the_last_layer(net: torch.nn.Module, tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in net.state_dict().items()}, tmp_path / "w.pth")
    start = models.load(TINY, weights=tmp_path / "w.pth", num_classes=5)
    again = models.load(TINY, weights=tmp_path / "w.pth", num_classes=5)
    other = models.load(TINY, weights=tmp_path / "w.pth", num_classes=5, seed=1)
    assert start.model(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    torch.testing.assert_close(
        start.net.features.state_dict(), {k: v.half().float() for k, v in net.features.state_dict().items()}
    )
    assert start.weights_hash == again.weights_hash != other.weights_hash


def test_features_only_starts_the_classifier_fresh_and_only_fine_tuning_accepts_it(
    net: torch.nn.Module, tmp_path: Path
) -> None:
    torch.save(net.features.state_dict(prefix="features."), tmp_path / f"{TINY}_features.pth")
    start = models.load(TINY, weights_dir=tmp_path, num_classes=4)
    torch.testing.assert_close(start.net.features.state_dict(), net.features.state_dict())
    assert start.stand_in
    with pytest.raises(WcxError, match=r"convolutional part only.*wcx finetune"):
        models.load(TINY, weights_dir=tmp_path)


def test_googlenet_flags_follow_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False).state_dict()
    assert any(key.startswith("aux1.") for key in state)
    torch.save(state, path := tmp_path / "googlenet-1378be20.pth")
    assert models.load("googlenet", weights=path).net.transform_input is False, "the file is not torchvision's own"
    monkeypatch.setattr(weights, "_official", lambda entry, folder: weights.Weights(entry.name, path, entry.name))
    for num_classes in (None, 7):
        loaded = models.load("googlenet", weights_dir=tmp_path, num_classes=num_classes)
        assert (loaded.net.transform_input, loaded.net.aux1) == (True, None)
        assert loaded.options == {"transform_input": True}
        assert loaded.model.train()(torch.rand(2, 3, 64, 64)).shape == (2, num_classes or 1000)
    assert models.load("googlenet", weights="random").net.transform_input is False


@pytest.mark.parametrize("name", ["mnasnet1_0", "densenet161"])
def test_networks_with_peculiar_state_dicts(name: str, tmp_path: Path) -> None:
    """MNASNet asks for the state dict's version attribute; torchvision's DenseNet file has old key names."""
    net = torchvision.models.get_model(name, weights=None)
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for key, value in net.state_dict().items()
    }
    safetensors.torch.save_file(old if name == "densenet161" else net.state_dict(), tmp_path / "w.safetensors")
    assert models.load(name, weights=tmp_path / "w.safetensors").weights_hash == models.weights_hash(net.state_dict())


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


def test_what_is_no_state_dict_is_refused(net: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Boom(), protocol=2))
    torch.save(net, tmp_path / "module.pth")
    torch.save({"epoch": 3, "losses": [0.5, 0.25]}, tmp_path / "nested.pth")
    torch.save(net.state_dict(), tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:5000])
    (tmp_path / "cut.safetensors").write_bytes(safetensors.torch.save(net.state_dict())[:5000])
    for name, part in {
        "pickle.pth": "more than plain tensors",
        "module.pth": "more than plain tensors",
        "nested.pth": "not a state dict",
        "cut.pth": "cannot be read",
        "cut.safetensors": "cannot be read",
    }.items():
        for arguments in ({"weights": tmp_path / name}, {"checkpoint": tmp_path / name}):
            with pytest.raises(WcxError) as error:
                models.load(TINY, **arguments)
            assert name in one_line(error)
            if "weights" in arguments:
                assert part in one_line(error)


def test_weights_of_another_network_are_refused(net: torch.nn.Module, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WcxError, match=r"file: w\.pth does not fit ResNet"):
        models.load("resnet18", weights=tmp_path / "w.pth")
    torch.save(torchvision.models.get_model(TINY, num_classes=5).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WcxError, match=r"another shape at 'classifier.1.weight' \(5, 512, 1, 1\), expected \(1000,"):
        models.load(TINY, weights=tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"name": "vgg16bn"}, "Did you mean 'vgg16_bn'"),
        ({"name": TINY, "weights": "IMAGENET1K_V3"}, "IMAGENET1K_V1"),
        ({"name": TINY, "weights": "absent.pth"}, "not found: absent.pth"),
        ({"name": TINY, "weights": "random", "colour": 1}, "colour"),
        ({"name": "small_cnn"}, "no pretrained weights"),
    ],
)
def test_mistakes_have_one_line(arguments: dict[str, object], part: str) -> None:
    with pytest.raises(WcxError) as error:
        models.load(**arguments)
    assert part in one_line(error)


def test_a_checkpoint_returns_as_it_went(tmp_path: Path) -> None:
    net = torchvision.models.get_model(TINY, num_classes=3).eval()
    path = models.checkpoint_path(tmp_path, "pets", TINY, META["class_names"])
    models.save_checkpoint(path, net.state_dict(), META)
    loaded = models.load(TINY, checkpoint=path)
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(loaded.model(image), net((image - 0.5) / 0.25))
    assert (loaded.class_names, loaded.transform, loaded.meta) == (META["class_names"], META["transform"], META)
    assert loaded.weights == f"pets checkpoint ({TINY}, recipe quick, accuracy 0.750)"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    with pytest.raises(WcxError, match=f"is of {TINY}, not of alexnet"):
        models.load("alexnet", checkpoint=path)


def test_checkpoint_paths_differ_by_class_list_and_seed(tmp_path: Path) -> None:
    lists = (["a", "b"], ["b", "a"], ["a, b"], ["ab"])
    paths = {models.checkpoint_path(tmp_path, "pets", TINY, names, seed) for names in lists for seed in (0, 1)}
    assert len(paths) == 8
    assert all(path.parent == tmp_path / "pets" and path.name.startswith(f"{TINY}-") for path in paths)


def test_a_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    path = models.checkpoint_path(tmp_path, "cub", "vgg16", ["a", "b"])
    with pytest.raises(WcxError) as error:
        models.load("vgg16", checkpoint=path, recipe="head")
    assert one_line(error).endswith("wcx finetune dataset=cub model=vgg16 recipe=head")
    with pytest.raises(WcxError, match=r"dataset=cub model=torchvision model.name=resnet50 recipe=quick$"):
        models.load("resnet50", checkpoint=path, choice="torchvision model.name=resnet50")


def test_labels_map_by_name() -> None:
    assert models.label_map(["dog", "cat"], ["cat", "fish", "dog"]).tolist() == [2, 0]
    with pytest.raises(WcxError, match=r"does not know 'cow' \(1 of the dataset's 2 classes\)"):
        models.label_map(["dog", "cow"], ["cat", "fish", "dog"])


def test_a_bare_state_dict_is_no_checkpoint(net: torch.nn.Module, tmp_path: Path) -> None:
    safetensors.torch.save_file(net.state_dict(), tmp_path / "w.safetensors")
    torch.save(net.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        with pytest.raises(WcxError, match="no class names inside"):
            models.load(TINY, checkpoint=tmp_path / name)


def test_the_hash_sees_names_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    variants = [
        base,
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].view(2, 3), "b": base["b"]},
        {"a": base["a"] + 1e-6, "b": base["b"]},
        {"a": base["a"]},
    ]
    assert len({models.weights_hash(state) for state in variants}) == 5
    assert models.weights_hash(base) == models.weights_hash(dict(reversed(base.items())))


YAMLS = sorted(Path(__file__).parents[1].glob("conf/model/*.yaml"))


@pytest.mark.parametrize(
    "path",
    [path for path in YAMLS if not {"factory:", "library:"} & set(path.read_text().split())],  # of other packages
    ids=lambda path: path.stem,
)
def test_every_model_yaml_names_a_model_a_layer_and_a_recipe(path: Path) -> None:
    config = OmegaConf.load(path)
    if path.stem == "torchvision":
        config.name = "resnet50"
        assert config.choice == "torchvision model.name=resnet50"
        config.layer = "layer4"
    assert config.name in models.names()
    assert config.recipe
    known = {"name", "layer", "weights", "pinned", "checkpoint", "recipe", "choice"}
    options = {key: value for key, value in config.items() if key not in known}
    with torch.device("meta"):  # shapes only, at no cost
        net = models.build(config.name, num_classes=3, options=options)
        shapes: list[torch.Size] = []
        net.get_submodule(config.layer).register_forward_hook(
            lambda module, inputs, output: shapes.append(output.shape)
        )
        assert net(torch.rand(1, 3, 224, 224)).shape == (1, 3)
    side = {"vgg16": 14, "vgg16_bn": 14, "alexnet": 13, "squeezenet1_1": 13, "small_cnn": shapes[0][2]}.get(
        path.stem, 7
    )
    assert [shape[2:] for shape in shapes] == [(side, side)], "one spatial activation"


def test_real_stand_ins_classify(shared: Path) -> None:
    """squeezenet1_1 agrees with the folders (sorted wnids) of most of a few real images: right weights, right order."""
    folders = sorted((shared / "data" / "imagenet" / "val").iterdir())
    loaded = models.load("squeezenet1_1", weights_dir=shared / "weights")
    assert (loaded.weights, loaded.stand_in) == ("stand-in: squeezenet1_1.pth", True)
    preset = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms()
    labels = range(0, 1000, 50)
    images = [preset(Image.open(next(folders[k].iterdir())).convert("RGB")) for k in labels]
    with torch.inference_mode():
        predicted = loaded.net(torch.stack(images)).argmax(1)
    assert (predicted == torch.tensor(labels)).float().mean() >= 0.5
