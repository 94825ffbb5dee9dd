"""Quoting was solved for image= alone: every setting that is a text is taken as it is typed, by every runner."""

from __future__ import annotations

import doctest
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from wcx.checks import figure
from wcx.cli import application, opening, quoting, user_errors
from wcx.cli import main as command_line
from wcx.cli.commands import photo

TEXTS = [
    "dataset.root", "model.weights", "model.checkpoint", "model.pinned", "model.layer", "paths.data_dir",
    "paths.weights_dir", "paths.checkpoints_dir", "paths.cache_dir", "paths.results_dir", "target",
]  # fmt: skip
NAMES = [
    "data/Möwen", "epoch=3-val_loss=0.25.pth", "a b", "  two  blanks ", "a,b", "a, b", "[a]", "[a,b]", "photo [1].jpg",
    "(1)", "my results (2)", "sum(2)", "choice(a,b)", "range(3)", "glob(*)", "str(3)", "{a: b}", "}{", "#1", "a#b", "it's",
    "'q'x", '"q', "'", "a'b\"c", "'a','b'", "a&b", "a~b", "~nobody-of-this-name", "a;b", "!a", "50%", "a\\b", "a\\", "a\\\\",
    "a\\'", "a\\,b", "\\", ":", "a:b", "C:\\x", "-x", "+x", "=", "==x", ",", "@", "*", "?", "a|b", "<a>", "`a`", "^",
    "2024", "007", "1e5", "1_000", "1.50", "-1", "true", "nan", "nullable", "a\tb", "a\nb",
    "图片", "🐦", "e\u0301te\u0301", "צפרים", "ﬁ", "a\u00a0b", "caf\udce9", "x" * 300,
    "$x", "a$$b", "$", "${HOME}", "${", "${u} ${v}", "\\${x}", "\\\\${x}", "${oc.env:HOME", "${nothing:x}", "${u${v}}",
]  # fmt: skip


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """Run run.py -m with arguments in an empty folder; returns the texts that each job saw."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, keys: list[str]) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = []

        def job(cfg: DictConfig) -> None:
            jobs.append({key: OmegaConf.select(cfg, key) for key in keys})

        argv = ["run.py", "-m", "image=x.png", "paths.results_dir=out", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        application.main(job, complete=photo.complete)
        return jobs

    return call


@pytest.mark.parametrize("start", range(0, len(NAMES), 3))
def test_a_text_is_taken_as_it_is(start: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name by three or four settings, every setting with a third of the names: how a text is quoted depends on neither."""
    monkeypatch.chdir(tmp_path)
    custom = ["model.classes", "model.factory", "model.weights"]
    for group, keys in (("experiment=photo", TEXTS), ("model=custom", custom)):
        given = {key: NAMES[(start + i) % len(NAMES)] for i, key in enumerate(keys)}
        cfg = application.compose([group, *(f"{key}={name}" for key, name in given.items())])
        assert {key: OmegaConf.select(cfg, key) for key in keys} == given


@pytest.mark.parametrize("start", range(0, len(NAMES), 10))
def test_a_sweep_takes_a_text_as_it_is(start: int, sweep: Callable[..., list[dict[str, Any]]]) -> None:
    """A value with a comma is one, where it is the path of something."""
    names = dict(zip((key for key in TEXTS if key != "paths.results_dir"), NAMES[start : start + 10], strict=False))
    for name in names.values():
        if "," in name or "(" in name:
            Path(name).touch()
    assert sweep(*(f"{key}={name}" for key, name in names.items()), keys=list(names)) == [names]


def test_a_comma_separates_in_a_sweep_unless_the_whole_is_a_path(sweep: Callable[..., list[dict[str, Any]]]) -> None:
    key = "dataset.root"
    assert sweep(f"{key}=Möwen, a=b.pth,'c, d'", keys=[key]) == [{key: v} for v in ("Möwen", "a=b.pth", "c, d")]
    Path("Möwen, a=b.pth").mkdir()
    assert sweep(f"{key}=Möwen, a=b.pth", keys=[key]) == [{key: "Möwen, a=b.pth"}]
    assert sweep("model.weights=random,null", keys=["model.weights"]) == [
        {"model.weights": v} for v in ("random", None)
    ]
    assert sweep("image=[a ä.jpg,b.jpg],[c.jpg]", keys=["image"]) == [
        {"image": ["a ä.jpg", "b.jpg"]},
        {"image": ["c.jpg"]},
    ]
    assert sweep("seed=range(2)", "target=choice(a,b)", keys=["seed", "target"]) == [
        {"seed": seed, "target": target} for seed in (0, 1) for target in "ab"
    ]
    assert [job["paths.results_dir"] for job in sweep("paths.results_dir=r ä,r b", keys=["paths.results_dir"])] == [
        "r ä",
        "r b",
    ]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("model.checkpoint=null", None),
        ("dataset.root='a b'", "a b"),
        ('dataset.root="it\'s"', "it's"),
        ("dataset.root=${oc.env:WCX_TEST_HOME}/x", "/some/home/x"),
        ("dataset.root=${oc.env:WCX_TEST_HOME}/Möwen (2)", "/some/home/Möwen (2)"),
        ("dataset.root=${paths.data_dir}/birds", "the data/birds"),
        ("dataset.root='\\${HOME}'", "${HOME}"),
        ("foils=null", None),
        ("foils=5", 5),
        ("foils=[3,7]", [3, 7]),
        ("foils=3,7", [3, 7]),
        ("foils=cat", "cat"),
        ("foils=[crow's nest, Möwe,'cat, tabby',12]", ["crow's nest", "Möwe", "cat, tabby", 12]),
        ("foils=crow's nest,dog's bed", ["crow's nest", "dog's bed"]),
        ("foils=[a\\b,a\\]", ["a\\b", "a\\"]),
        ("foils=[1_0,true,1.50]", ["1_0", "true", "1.50"]),
        ("image=[a ä.jpg,b (2).jpg]", ["a ä.jpg", "b (2).jpg"]),
        ("image=photo[1].jpg", "photo[1].jpg"),
        ("image=[]", []),
        ("limit=100", 100),
        ("limit=1_000", 1000),
        ("threshold=${profile.threshold}", 0.1),
        ("equal_pair=[original,mean]", ["original", "mean"]),
        ("dataset.official={classes: 3, train: 4, test: 5}", {"classes": 3, "train": 4, "test": 5}),
        ("dataset.transform.size=32", 32),
        ("device=cuda:1", "cuda:1"),
    ],
)
def test_what_is_hydras_stays_hydras(
    argument: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside a folder called 100: a number is no text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WCX_TEST_HOME", "/some/home")
    for name in ("100", "null", "[3,7]x"):
        Path(name).mkdir()
    key = argument.partition("=")[0]
    experiment = "photo" if key in ("image", "foils") else "masking"
    cfg = application.compose(["dataset=folder", f"experiment={experiment}", "paths.data_dir=the data", argument])
    assert opening.plain(OmegaConf.select(cfg, key)) == value


def test_an_existing_path_is_meant_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[a,b]", "photos\\cat.png", "b,c.png", "x y", "a\\,b", "choice(1,2)"):
        Path(name).touch()
        cfg = application.compose(["experiment=photo", f"image={name}", f"dataset.root={name}"])
        assert (cfg.image, cfg.dataset.root) == (name, name)
    assert application.compose(["dataset.root=x\\ y"]).dataset.root == "x y", (
        "Hydra's own escapes, where that path exists"
    )
    assert application.compose(["dataset.root=y\\ y"]).dataset.root == "y\\ y"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In paths, also where no shell has met them; unless a file is called so, and never in the name of a class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/some/home")
    monkeypatch.setenv("WCX_WEIGHTS_DIR", "~/weights")
    cfg = application.compose(
        ["experiment=photo", "dataset.root=~/Möwen (2)", "paths.results_dir=~", "target=~/x", "image=[~/a.png,b.png]"]
    )
    assert (cfg.dataset.root, cfg.paths.results_dir) == ("/some/home/Möwen (2)", "/some/home")
    assert (cfg.paths.weights_dir, cfg.target, cfg.image) == (
        "/some/home/weights",
        "~/x",
        ["/some/home/a.png", "b.png"],
    )
    Path("~").mkdir()
    Path("~/Möwen").mkdir()
    assert application.compose(["dataset.root=~/Möwen"]).dataset.root == "~/Möwen"


def test_random_texts_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Hydra's parser and OmegaConf's: 600 strings of the letters that mean something to either."""
    monkeypatch.chdir(tmp_path)
    draw, parser = random.Random(0), OverridesParser.create()
    for _ in range(600):
        text = "".join(draw.choice("ab ='\"\\${}[](),:#~ö.1") for _ in range(draw.randrange(1, 9)))
        [argument] = quoting.quoted([f"target={text}"])
        if text.strip()[:1] in ("'", '"') and argument == f"target={text}":
            continue  # in quotes of its own
        assert OmegaConf.create({"x": parser.parse_override(argument).value()}).x == text, text
        assert quoting.quoted([argument]) == [argument], "what is quoted stays"
        items = OmegaConf.create({"x": parser.parse_override(f"ids=[{quoting._item(text, 'ids')},b]").value()}).x
        assert [str(item) for item in items] == [text, "b"], text


def test_the_settings_that_are_told_apart_by_name_are_there() -> None:
    assert doctest.testmod(quoting).failed == 0
    nulls = {name for name, values in quoting.defaults().items() if None in values}
    assert nulls >= quoting.NUMBERS | quoting.SEVERAL
    assert set(quoting.defaults()) >= quoting.NAMES


@pytest.mark.parametrize("runner", ["run", "sweep", "table1", "fig3", "gallery", "report", "finetune", "verify"])
def test_every_runner_takes_such_a_folder(
    runner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "Möwen (2), it's [1] & #2 = ~ ${x}"
    monkeypatch.chdir(tmp_path)
    drawn = ["dataset.size=32", "dataset.transform.size=32", "dataset.train_per_class=2", "dataset.test_per_class=1"]
    small = ["model.weights=random", "limit=2", "device=cpu", "num_workers=0", *drawn]
    lists = ["datasets=[parts]", "models=[small_cnn]", "methods=[gradcam]", "contrasts=[weighted]"]
    walk = ["dataset=parts", lists[1], lists[3], "iterations=[1]", *small]
    arguments, place = {
        "run": (["figure=0", *small], f"{name}/records"),
        "sweep": (["figure=0", "-m", *small], f"{name}/records"),
        "table1": (["figure=0", "threshold=0", *lists, *small], f"{name}/table1.csv"),
        "fig3": (walk, f"{name}/fig3.csv"),
        "gallery": (["plan=true", *lists[:2]], None),
        "report": ([], f"{name}/report.html"),
        "finetune": (["plan=true", "num_workers=0", *drawn], None),
        "verify": (["parts=[figure]"], None),
    }[runner]
    monkeypatch.setattr(figure, "drawn", lambda _request, folder, *_: [folder])
    Path(name).mkdir()  # a sweep takes a comma for its own unless it is there
    monkeypatch.setattr(sys, "argv", ["x.py", f"paths.results_dir={name}", f"paths.checkpoints_dir={name}", *arguments])
    command_line("run" if runner == "sweep" else runner)
    assert place is None or Path(place).exists()
    assert place is not None or name in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} <= {name}


@pytest.mark.parametrize(
    ("target", "name"),
    [(target, "it's [1], #2 & ~") for target in ("table1", "fig3", "report", "verify", "finetune", "bench", "gallery")]
    + [("report", name) for name in ("my results (2)", "a$b ${HOME} $(x)", "Möwen  two", "a\\", '"q"')],
)
def test_make_hands_on_what_was_typed(target: str, name: str, tmp_path: Path, root: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    command = ["make", target, f"PYTHON={python}", f"RESULTS={name}", "DATASETS=cub cars", "MODELS=vgg16", "LIMIT=3"]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=True)
    assert f"paths.results_dir={name}" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("recipe", "argument", "expected"),
    [
        ("tail", "recipe.augment={random_resized_crop:[0.7,1.0]}", {"random_resized_crop": [0.7, 1.0]}),
        ("tail", "recipe.augment.rotation=30", {"rotation": 30}),
        ("tail", "+recipe.augment.rotation=30", {"rotation": 30}),
        ("quick", "recipe.augment.rotation=30", {"horizontal_flip": 0.5, "rotation": 30}),
        ("quick", "recipe.augment.horizontal_flip=0.1", {"horizontal_flip": 0.1}),
    ],
)
def test_any_augmentation_may_be_given(recipe: str, argument: str, expected: dict[str, object]) -> None:
    assert application.compose([f"recipe={recipe}", argument], "finetune").recipe.augment == expected


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("limit", "cannot read 'limit'; give setting=value"),
        ("x y", "cannot read 'x y'; give setting=value"),
        ("dataset root=x", "unknown setting 'dataset root'. Did you mean 'dataset'?"),
        ("Limit=3", "unknown setting 'Limit'. Did you mean 'limit'?"),
        ("--limit=3", "--limit=3: settings have no dashes before them; give limit=3"),
        ("dataset=my data", "unknown dataset 'my data'. Choose one of: cars, cub"),
        ("dataset=Möwen", "unknown dataset 'Möwen'"),
        ("dataset=a=b", "unknown dataset 'a=b'"),
        ("paths=/data/x", "unknown paths '/data/x'. Choose one of: default"),
        ("hydra/launcher=nope", "unknown hydra/launcher 'nope'. Choose one of: basic"),
        ("paths.results_dir=null", "paths.results_dir = None: give a folder."),
        ("limit=2,3", "limit=2,3 gives several values; add -m to run each."),
        ("method=choice(gradcam,lrp)", "gives several values; add -m to run each."),
        ("limit=foo(3)", "limit = 'foo(3)': give a whole number"),
        ("seed=[1", "seed = '[1': give a whole number"),
        ("dataset.rot=x", "no setting 'rot' in the dataset chosen here"),
        ("model=torchvision", "model.name is needed; give model.name=..."),
        ("paths.data_dir='${HOME}/x'", "paths.data_dir asks for ${HOME}, which is no setting"),
        ("threshold=${profile.nope}", "threshold asks for ${profile.nope}, which is no setting"),
        ("paths.data_dir=${oc.env:NOPE}", "paths.data_dir asks for the environment variable NOPE, which is not set"),
        ("paths.data_dir=${paths.data_dir}", "paths.data_dir: Recursive interpolation"),
        ("device='${oc.env:HOME'", "cannot read device='${oc.env:HOME'"),
    ],
)
def test_what_hydra_cannot_take_is_one_line(argument: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    try:
        application.check_overrides([argument])
        OmegaConf.to_container(application.compose([argument]), resolve=True)
        text = None
    except Exception as error:
        text = user_errors.one_line(error)
    assert text is not None
    assert line in text
    assert "http" not in text
    assert "\n" not in text


def test_a_list_of_classes_made_on_windows(tmp_path: Path) -> None:
    from wcx.datasets import listing
    from wcx.models import custom

    file = tmp_path / "Namen (ä).txt"
    file.write_bytes("\ufeffMöwe\r\na\\b\r\ncat, tabby\r\n".encode())
    assert custom.read_classes(file) == ["Möwe", "a\\b", "cat, tabby"]
    file.write_bytes("\ufeff1 Möwe\r\n2 two words\r\n".encode())
    assert listing.read_table(file, int, str) == [(1, "Möwe"), (2, "two words")]
