"""Class lists as people have them: ImageNet's with its two cranes, JSON in its usual forms; a class is its id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wcx import models
from wcx.datasets import imagenet
from wcx.errors import WcxError
from wcx.experiments.photo import class_id
from wcx.models import custom

NAMES = ["tench", "great white shark", "crane", "Möwe", "crane"]
DISTINCT = ["tench", "great white shark", "crane (2)", "Möwe", "crane (4)"]
WNIDS = {str(i): [f"n{i:08d}", name.replace(" ", "_")] for i, name in enumerate(NAMES)}

FILES = {
    "labels.txt": "\n".join(NAMES) + "\n\n",
    "windows.txt": "\ufeff" + "\r\n".join(NAMES),
    "list.json": json.dumps(NAMES),
    "by_id.json": json.dumps(dict(enumerate(NAMES)), ensure_ascii=False, indent=1),
    "imagenet_class_index.json": json.dumps(WNIDS),
    "shuffled.json": json.dumps({str(i): NAMES[i] for i in (4, 2, 0, 1, 3)}),
    "clsidx_to_labels.txt": repr(dict(enumerate(NAMES))).replace(", ", ",\n "),
}


@pytest.mark.parametrize("name", FILES)
def test_a_list_is_read_in_the_order_of_the_outputs(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    assert custom.read_classes(tmp_path / name) == DISTINCT


def test_a_map_from_names_to_ids_is_read_the_other_way(tmp_path: Path) -> None:
    """torchvision's class_to_idx, saved."""
    (tmp_path / "idx.json").write_text(json.dumps({"eel": 2, "cat": 0, "dog": 1}))
    assert custom.read_classes(tmp_path / "idx.json") == ["cat", "dog", "eel"]


@pytest.mark.parametrize("text", ["[background]\ncat\ndog", "{unknown}\ncat\ndog"])
def test_a_text_may_begin_with_a_bracket(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.txt").write_text(text)
    assert custom.read_classes(tmp_path / "labels.txt") == text.split("\n")


@pytest.mark.parametrize(
    "content",
    [{"1": "a", "2": "b"}, {"0": "a", "2": "b"}, {"0": 0.5}, [["n1", "a"], 3], {"a": 0, "b": 0}, {"a": "b"}, [1.5]],
)
def test_ids_that_do_not_count_from_0_are_one_line(tmp_path: Path, content: object) -> None:
    (tmp_path / "odd.json").write_text(json.dumps(content))
    with pytest.raises(WcxError, match=r"odd\.json are not understood; expected one a line.*ids 0 to n - 1") as caught:
        custom.read_classes(tmp_path / "odd.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "word"), [("[]", "no class names"), ("{}", "no class names"), ('["a", ""]', "is blank")]
)
def test_lists_without_names_are_one_line(tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(WcxError, match=word):
        custom.read_classes(tmp_path / "odd.json")


def test_imagenets_usual_list(tmp_path: Path) -> None:
    ours = imagenet.class_names()  # torchvision's, which tells them apart
    names = [{"crane bird": "crane", "maillot tank suit": "maillot"}.get(name, name) for name in ours]
    (tmp_path / "imagenet_classes.txt").write_text("\n".join(names))
    read = custom.read_classes(tmp_path / "imagenet_classes.txt")
    assert len(set(read)) == len(read) == 1000
    assert [(i, a) for i, (a, b) in enumerate(zip(read, names, strict=True)) if a != b] == [
        (134, "crane (134)"),
        (517, "crane (517)"),
        (638, "maillot (638)"),
        (639, "maillot (639)"),
    ]
    for dataset in (ours, names):
        assert models.label_map(dataset, read).tolist() == list(range(1000)), "by id where the name is not enough"
    for list_of_names in (names, read):
        with pytest.raises(WcxError, match=r"class 'crane' is the name of 2 classes; give an id: 134, 517\."):
            class_id("crane", list_of_names)
    assert class_id("134", read) == class_id("crane (134)", read) == class_id("Crane (134)", read) == 134


def test_labels_are_never_mapped_to_the_wrong_one_of_two() -> None:
    assert models.label_map(["crane", "eel", "crane"], ["crane", "eel", "crane"]).tolist() == [0, 1, 2]
    assert models.label_map(["eel", "crane (2)"], ["crane", "eel", "crane"]).tolist() == [1, 2]
    assert models.label_map(["crane", "eel", "crane bird"], ["crane", "eel", "crane"]).tolist() == [0, 1, 2]
    for names in (["crane"], ["eel", "crane"], ["eel", "crane", "crane"], ["crane bird", "crane", "eel"]):
        with pytest.raises(WcxError, match="does not know 'crane"):
            models.label_map(names, ["crane", "eel", "crane"])
