"""Encoding was solved for image= alone: names of any bytes, terminals of any encoding, and files that are always UTF-8."""

from __future__ import annotations

import ast
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.test_photo import CODE
from wcx import datasets, records
from wcx.cli import application, sweeps
from wcx.cli import main as command_line
from wcx.cli.commands import photo
from wcx.cli.commands import run as run_py
from wcx.datasets import cub
from wcx.errors import WcxError
from wcx.experiments.photo import class_id
from wcx.report import page

CLASSES = ["Möwe", "a\\b", "猫 = cat, (2)", "crow's nest"]
BYTES = [
    b"caf\xe9/0.png",
    b"caf\xe9/\xff.png",
    "Möwe/0 ä.png".encode(),
    b"a\\b/p\\0.png",
    b"a\\b/\xfe\xff.png",
    b"a\\b/1.png",
]
SHOWN = ["Möwe/0 ä.png", "a\\b/1.png", "a\\b/\\xfe\\xff.png", "a\\b/p\\0.png", "caf\\xe9/0.png", "caf\\xe9/\\xff.png"]
SMALL = [
    "dataset=folder", "dataset.root=own", "dataset.transform.size=32", "model=small_cnn", "model.weights=random",
    "threshold=0", "method=gradcam", "figure=9", "num_workers=0", "device=cpu",
]  # fmt: skip
CUSTOM = [
    "model=custom", "model.factory=encoding_nets:net", "model.weights=random", "model.classes=Namen (ä).txt",
    "model.transform.size=32", "model.transform.resize=32", "device=cpu",
]  # fmt: skip


def draw(path: bytes, seed: int = 0) -> None:
    """Write a picture under a name of any bytes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(coarse, np.ones((8, 8, 1), dtype=np.uint8))).save(buffer, "PNG")
    file = Path(os.fsdecode(path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(buffer.getvalue())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: pictures and classes of such names, and a network of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for seed, name in enumerate(BYTES):
        draw(b"own/" + name, seed)
    for seed, name in enumerate((b"pics/\xff.png", "pics/Möwe.png".encode(), b"pics/ok.png", b"photos\\cat.png")):
        draw(name, seed)
    Path("encoding_nets.py").write_text(CODE, encoding="utf-8")
    Path("Namen (ä).txt").write_text("\r\n".join(CLASSES), encoding="utf-8-sig")
    yield tmp_path
    sys.modules.pop("encoding_nets", None)


def ask(*arguments: str) -> list[dict]:
    """Run image=... in this process; return what its JSON files hold."""
    photo.run(application.compose(photo.complete([*arguments, *CUSTOM, "paths.results_dir=out"])))
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path("out/images").glob("*.json"))]


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_folder_dataset_of_any_names_is_computed_whole(
    folder: Path, on_error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records, CSV, JSON, figure, gallery and the report: the bytes that are no UTF-8 are seen as such, nothing is lost."""
    run_py.run(application.compose([*SMALL, f"on_error={on_error}", "paths.results_dir=out"]))
    [shard] = records.find(Path("out"))
    rows = shard.read()
    assert sorted(rows["id"]) == SHOWN
    assert not rows["p_t1"].isna().any()
    assert (shard.path / "selected.png").is_file()
    assert "n = 6 images" in capsys.readouterr().out
    for number, name in enumerate(("caf\\xe9/\\xff.png", "caf\udce9/\udcff.png", "\udcff")):
        figures = ["experiment=gallery", "figures=[fig4]", "formats=[png]", f"ids=[{name}]"]
        run_py.run(application.compose([*SMALL[:5], "device=cpu", *figures, f"paths.results_dir=gallery{number}"]))
        [about] = Path(f"gallery{number}/gallery").glob("*.json")
        assert [image["id"] for image in json.loads(about.read_text(encoding="utf-8"))["images"]] == [SHOWN[-1]]
    assert page.write(Path("out"))[-1].startswith("report: ")
    Path("out/report.html").read_text(encoding="utf-8")


def test_images_of_a_dataset_of_any_names(folder: Path) -> None:
    dataset = datasets.load("folder", Path("own"), "test", transform={"size": 32})
    assert sorted(dataset.ids) == SHOWN
    assert dataset.class_names == ["Möwe", "a\\b", "caf\\xe9"]
    assert [dataset[i][0].shape for i in range(6)] == [(3, 32, 32)] * 6
    assert {os.fsencode(dataset.path(i)) for i in range(6)} == {b"own/" + name for name in BYTES}
    cached = datasets.cached(dataset, folder / "cache")
    cached.fill(quiet=True)
    assert all((cached[i][0] == dataset[i][0]).all() for i in range(6))
    assert len(dataset.listing_hash()) == 64
    Path(os.fsdecode(b"own/caf\xe9/0.png")).write_text("no picture")
    with pytest.raises(WcxError, match=r"cannot read image own/caf") as caught:
        dataset[dataset.ids.index("caf\\xe9/0.png")]
    str(caught.value).encode()


def test_list_files_of_any_bytes(tmp_path: Path) -> None:
    """CUB's lists made under Windows or in Latin-1: the names in them are those of the files."""
    base = tmp_path / "CUB_200_2011"
    for i, name in enumerate((b"001.Gr\xe9be/\xe9 0.png", b"001.Gr\xe9be/1.png")):
        draw(os.fsencode(base / "images") + b"/" + name, i)
    lists = {
        "images.txt": b"\xef\xbb\xbf1 001.Gr\xe9be/\xe9 0.png\r\n2 001.Gr\xe9be/1.png\r\n",
        "image_class_labels.txt": b"1 1\r\n2 1\r\n",
        "train_test_split.txt": b"1 0\r\n2 1\r\n",
        "classes.txt": b"1 001.Gr\xe9be\r\n",
        "bounding_boxes.txt": b"1 0 0 40 40\r\n2 0 0 40 40\r\n",
    }
    for name, content in lists.items():
        (base / name).write_bytes(content)
    test = cub.load(tmp_path, "test")
    assert test.ids == ["CUB_200_2011/images/001.Gr\\xe9be/\\xe9 0.png"]
    assert test.class_names == ["Gr\\xe9be"]
    assert test[0][0].shape == (3, 224, 224)


def test_a_folder_of_photographs_of_any_names(
    folder: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    found = ask("image=pics")
    assert sorted(Path(one["image"]).name for one in found) == ["Möwe.png", "ok.png", "\udcff.png"]
    out = capsys.readouterr().out
    out.encode()
    assert "pics/\\xff.png: " in out
    assert sorted(path.name for path in Path("out/images").glob("*.png")) == [
        "Möwe-custom.png",
        "ok-custom.png",
        "xff-custom.png",
    ]
    request.getfixturevalue("undrawn")
    assert len(ask("image=pics/\udcff.png")) == 3, "the same photograph again"
    Path(os.fsdecode(b"pics/\xfe.png")).write_text("no picture")
    assert len(ask("image=pics", "on_error=skip")) == 3
    with pytest.raises(WcxError, match="cannot read image pics/"):
        ask("image=pics")
    assert "skipped: cannot read image pics/" in capsys.readouterr().err
    page.write(Path("out"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_any_name_is_found(folder: Path, name: str) -> None:
    foil = CLASSES[CLASSES.index(name) - 1]
    quoted = f'"{foil}"' if "," in foil else foil
    for argument in (quoted, f"[{quoted}]"):
        [about] = ask("image=photos\\cat.png", f"target={name}", f"foils={argument}")
        assert (about["target"]["class"], about["rival"]["class"]) == (name, foil)
        assert Path(about["image"]).name == "photos\\cat.png"


def test_a_class_typed_under_another_locale_is_found() -> None:
    typed = "Möwe".encode().decode("ascii", "surrogateescape")  # as Python reads it where the locale is C
    assert class_id(typed, ["cat", "Möwe"]) == 1


def shown(encoding: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, bytes, bytes]:
    """Run run.py in this process, in a terminal of an encoding; return its exit code and what it showed."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    err = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")  # as Python opens it
    code = 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py", *arguments, "paths.results_dir=out"])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            command_line("run")
        except SystemExit as end:
            code = int(end.code or 0)
        out.flush()
        err.flush()
    return code, out.buffer.getvalue(), err.buffer.getvalue()


def check_answers(printed: bytes, name: bytes) -> None:
    """What three photographs are asked is shown, and all files are in UTF-8."""
    assert b"\\u732b = cat, (2) 0." in printed
    assert b"Why %b," % name in printed
    assert len(list(Path("out/images").glob("*.json"))) == 3
    assert Path("out/images/Möwe-custom-why0.png").is_file()
    [about] = Path("out/images").glob("ok*.json")
    assert json.loads(about.read_text(encoding="utf-8"))["target"]["class"] == "Möwe"


@pytest.mark.parametrize(("encoding", "name"), [("cp1252", b"M\xf6we"), ("ascii", b"M\\xf6we")])
@pytest.mark.usefixtures("undrawn")
def test_a_terminal_of_another_encoding_shows_what_it_can(
    folder: Path, encoding: str, name: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = shown(encoding, monkeypatch, "image=pics", "target=Möwe", *CUSTOM)
    assert code == 0, err
    check_answers(out, name)


def test_under_a_locale_without_letters(folder: Path, root: Path) -> None:
    """As a command of its own, the progress bar included: no error after the work is done, and all files in UTF-8."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LC_ALL": "C", "PYTHONUTF8": "0"}
    for arguments in (["image=pics", "target=Möwe", *CUSTOM], SMALL):
        command = [sys.executable, root / "run.py", "paths.results_dir=out", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        if arguments is not SMALL:
            check_answers(done.stdout, b"M\\xf6we")
    assert b"100%" in done.stderr
    [chunk] = Path("out").rglob("chunk-*.csv")
    assert sorted(pd.read_csv(chunk)["id"]) == SHOWN


def test_a_mistake_in_such_a_name_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = shown("ascii", monkeypatch, *SMALL, "dataset.root=Vögel")
    assert code == 2
    assert err.startswith(b"error: dataset folder: V\\xf6gel not found.")
    assert err.count(b"\n") == 1


def test_notes_of_a_sweep_hold_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sweeps.reported(tmp_path):
        assert sweeps.note("skipped", "caf\udce9 猫", "why")
    assert capsys.readouterr().err == "skipped: caf\\udce9 猫: why\n"


@pytest.mark.usefixtures("undrawn")
def test_what_a_gallery_says_of_its_images_can_be_typed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["a\\b/p\\0.png", "Möwe/0 ä.png"]
    own = ["datasets=[folder]", "models=[small_cnn]", "figures=[fig4]", "formats=[png]", *SMALL[1:3], SMALL[4]]
    argv = ["gallery.py", *own, f"ids=[{','.join(ids)}]", "device=cpu", "paths.results_dir=out"]
    monkeypatch.setattr(sys, "argv", argv)
    command_line("gallery")
    [about] = Path("out/gallery").glob("*.json")
    first = json.loads(about.read_text(encoding="utf-8"))
    assert [image["id"] for image in first["images"]] == ids
    monkeypatch.setattr(sys, "argv", shlex.split(first["command"])[1:])
    command_line("gallery")
    assert json.loads(about.read_text(encoding="utf-8"))["images"] == first["images"]


def test_every_text_file_is_opened_as_utf8(root: Path) -> None:
    """No read_text, write_text or open of a text in what we ship leaves the encoding to the machine."""
    left = []
    for file in [root / "run.py", *root.glob("scripts/*.py"), *root.glob("wcx/**/*.py")]:
        source = file.read_text(encoding="utf-8")
        for call in ast.walk(ast.parse(source)):
            name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", ""))
            if not isinstance(call, ast.Call) or name not in ("open", "read_text", "write_text"):
                continue
            text = ast.get_source_segment(source, call)
            modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            is_text = name != "open" or any(mode in ("r", "w", "a", "x", "r+", "w+") for mode in modes)
            if is_text and "encoding" not in {keyword.arg for keyword in call.keywords} and "lock" not in text:
                left.append(f"{file.name}:{call.lineno}: {text}")
    assert left == []
