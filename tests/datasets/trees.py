"""Small datasets in the official layouts, made on the spot; not a test itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

SYNSET = (
    "ILSVRC2012_ID",
    "WNID",
    "words",
    "gloss",
    "num_children",
    "children",
    "wordnet_height",
    "num_train_images",
)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (20, 14)) -> None:
    """Save a small random image of the given (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def cub(root: Path) -> None:
    """Three classes; per class two training images, then one test image."""
    base = root / "CUB_200_2011"
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "007.Parakeet_Auklet"]
    images = [f"{name}/{name[4:]}_{i:04d}.jpg" for name in classes for i in range(3)]
    write(base / "classes.txt", [f"{name[:3].lstrip('0')} {name}" for name in classes])
    write(base / "images.txt", [f"{i} {image}" for i, image in enumerate(images, 1)])
    write(base / "image_class_labels.txt", [f"{i} {int(image[:3])}" for i, image in enumerate(images, 1)])
    write(base / "train_test_split.txt", [f"{i} {int(i % 3 != 0)}" for i in range(1, 10)])
    write(base / "bounding_boxes.txt", [f"{i} {i}.0 2.5 4.0 5.0" for i in range(1, 10)])
    for i, image in enumerate(images, 1):
        picture(base / "images" / image, i)


def food101(root: Path) -> None:
    base = root / "food-101"
    split = {
        "train": ["apple_pie/2", "apple_pie/10", "pho/3", "pho/1"],
        "test": ["apple_pie/7", "pho/9"],
    }
    write(base / "meta/classes.txt", ["apple_pie", "pho"])
    for of, images in split.items():
        write(base / f"meta/{of}.txt", images)
        grouped = {name: [image for image in images if image.startswith(name)] for name in ("apple_pie", "pho")}
        (base / f"meta/{of}.json").write_text(str(grouped).replace("'", '"'))
        for image in images:
            picture(base / f"images/{image}.jpg", len(image))


def fgvc(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    images = {"0034309": "707-320", "0034958": "Boeing 717", "1785750": "F/A-18", "0900": "707-320", "0901": "F/A-18"}
    above = {
        "variant": {name: name for name in images.values()},
        "family": {"707-320": "Boeing 707", "Boeing 717": "Boeing 717", "F/A-18": "F/A-18"},
        "manufacturer": {"707-320": "Boeing", "Boeing 717": "Boeing", "F/A-18": "McDonnell Douglas"},
    }
    for (level, names), plural in zip(above.items(), ("variants", "families", "manufacturers"), strict=True):
        write(data / f"{plural}.txt", sorted(set(names.values())))
        lines = [f"{image} {names[name]}" for image, name in images.items()]
        write(data / f"images_{level}_trainval.txt", lines[:3])
        write(data / f"images_{level}_test.txt", lines[3:])
    write(data / "images_box.txt", [f"{image} 3 2 12 9" for image in images])
    for i, image in enumerate(images):
        picture(data / f"images/{image}.jpg", i)


def flowers102(root: Path) -> None:
    """Seven images of classes 1, 2 and 102."""
    base = root / "flowers-102"
    for i in range(1, 8):
        picture(base / f"jpg/image_{i:05d}.jpg", i)
    savemat(base / "imagelabels.mat", {"labels": np.array([[1, 1, 2, 102, 102, 2, 2]])})
    savemat(
        base / "setid.mat", {"trnid": np.array([[1, 4]]), "valid": np.array([[3, 7]]), "tstid": np.array([[2, 5, 6]])}
    )


def cars(root: Path, test_prefix: str = "") -> None:
    base = root / "stanford_cars"
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    (base / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"], dtype=object)
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    for of, path, prefix in (
        ("train", "devkit/cars_train_annos.mat", ""),
        ("test", "cars_test_annos_withlabels.mat", test_prefix),
    ):
        rows = [(3, 2, 12, 9, 1 + i % 2, f"{prefix}{i:05d}.jpg") for i in range(1, 5)]
        savemat(base / path, {"annotations": np.array(rows, dtype=[(name, object) for name in fields])})
        for row in rows:
            picture(base / f"cars_{of}" / row[-1], row[-2])


def folder(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            picture(root / part / name / "0.png")


def imagenet(root: Path) -> None:
    for i, wnid in enumerate(("n01440764", "n15075141"), 1):
        picture(root / "val" / wnid / f"ILSVRC2012_val_{i:08d}.JPEG")


def imagenet_devkit(root: Path, wnids: list[str], truth: list[int]) -> None:
    """A devkit whose ILSVRC2012_ID counts through `wnids` from 1, and ends with a synset that has children."""
    data = root / "ILSVRC2012_devkit_t12/data"
    data.mkdir(parents=True)
    rows = [(i, wnid, f"name {i}, other", "", 0, [], 0, 1300) for i, wnid in enumerate(wnids, 1)]
    rows.append((1001, "n00001740", "entity", "", 3, [1, 2, 3], 5, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in SYNSET])
    for i, row in enumerate(rows):
        synsets[i, 0] = row
    savemat(data / "meta.mat", {"synsets": synsets})
    write(data / "ILSVRC2012_validation_ground_truth.txt", [str(number) for number in truth])


PARTS = {  # FunnyBirds' parts.json: beak and wing have two looks
    "beak": [{"model": "beak01.glb", "color": "yellow"}, {"model": "beak02.glb", "color": "yellow"}],
    "eye": [{"model": "eye01.glb"}],
    "foot": [{"model": "foot01.glb"}],
    "tail": [{"model": "tail01.glb", "color": "red"}],
    "wing": [{"model": "wing01.glb", "color": "red"}, {"model": "wing01.glb", "color": "green"}],
}


def _funnybirds(base: Path) -> list[str]:
    """Four classes, 2 * beak + wing, in the authors' lists; return the test images' folders and numbers."""
    looks = [{"beak": c // 2, "eye": 0, "foot": 0, "tail": 0, "wing": c % 2} for c in range(4)]
    listed = {
        "classes": [{"class_idx": c, "parts": look} for c, look in enumerate(looks)],
        "parts": PARTS,
        "dataset_train": [{"class_idx": c} for c in (0, 1, 2, 3, 3)],
        "dataset_test": [{"class_idx": c} for c in (3, 0)],
    }
    for name, content in listed.items():
        write(base / f"{name}.json", [json.dumps(content)])
    return ["3/000000", "0/000001"]


def funnybirds(root: Path) -> None:
    """As the authors have it: RGBA images, part maps by colour, parts removed in combination."""
    base = root / "FunnyBirds"
    tests = _funnybirds(base)
    train = [f"train/{c}/{k:06d}" for k, c in enumerate((0, 1, 2, 3, 3))]
    removed = [f"test_interventions/{image}/{kept}" for image in tests for kept in ("body_beak_eye_foot_tail", "body")]
    for seed, name in enumerate([*train, *(f"test/{image}" for image in tests), *removed]):
        pixels = np.random.default_rng(seed).integers(0, 256, (14, 20, 4), dtype=np.uint8)
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(base / f"{name}.png")
    colours = [(255, 255, 253), (255, 255, 254), (255, 255, 0), (255, 0, 1), (255, 0, 2), (0, 255, 1), (0, 255, 2)]
    pixels = np.zeros((14, 20, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    for row, colour in enumerate([*colours, (0, 0, 255), (1, 0, 255)]):  # the last is a blended edge
        pixels[row, : row + 1, :3] = colour
    for image in tests:
        (base / "test_part_map" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(base / f"test_part_map/{image}.png")


def funnybirds16(root: Path) -> None:
    """Ours: .jpg, part maps with a palette, single parts removed or swapped."""
    base = root / "FunnyBirds16"
    tests = _funnybirds(base)
    for k, c in enumerate((0, 1, 2, 3, 3)):
        picture(base / f"train/{c}/{k:06d}.jpg", k)
    swaps = [(image, part, int(image[0]) ^ bit) for image in tests[:1] for part, bit in (("beak", 2), ("wing", 1))]
    write(base / "test_swaps.csv", ["image,part,class_shown,class_after_swap"])
    with (base / "test_swaps.csv").open("a") as file:
        file.writelines(f"{image},{part},{image[0]},{label}\n" for image, part, label in swaps)
    for seed, image in enumerate(tests):
        picture(base / f"test/{image}.jpg", 10 + seed)
        picture(base / f"test_interventions/{image}_wing.jpg", 20 + seed)
        (base / "test_part_map" / image).parent.mkdir(parents=True, exist_ok=True)
        indices = np.repeat(np.arange(14, dtype=np.uint8)[:, None] % 8, 20, axis=1)
        mask = Image.fromarray(indices, "P")
        mask.putpalette(list(range(24)))
        mask.save(base / f"test_part_map/{image}.png")
    for seed, (image, part, _) in enumerate(swaps):
        picture(base / f"test_swaps/{image}_{part}.jpg", 30 + seed)
