"""The report's switch between contrasts: heatmaps of the same image side by side, and with a script over one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wcx.report.html_elements import Markup, number, subject, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Item, Results
from wcx.report.html_table1 import notes

FRAMES = 6  # images of a switch that are embedded


def switch(results: Results, item: Item, pictures: Pictures) -> Markup | None:
    """Return the images of an index of frames: side by side without a script, over one another with it."""
    try:
        images = [_frames(item, image, pictures) for image in item.about["images"][:FRAMES]]
        contrasts = list(dict.fromkeys(name for image in item.about["images"] for name in image["frames"]))
        total = len(item.about["images"])
    except (KeyError, TypeError, AttributeError, IndexError):
        results.problems.append(
            f"{item.path.relative_to(results.folder)} is left out: not as wcx.report.pictures.selected writes it."
        )
        return None
    heading = " · ".join(filter(None, (results.label_of(item), item.say("model"), item.say("method"))))
    shown = f" The first {FRAMES} of {total}." if total > FRAMES else ""
    legend = tag("span", "against ", tag("span", class_="scale"), " for", class_="key")
    said = tag("p", words("; ".join(item.say("title").splitlines()) + "." + shown), " ", legend, class_="note")
    labels = notes([note for note in (item.say("weights"), item.say("subset")) if note])
    whole = [tag("h3", heading), labels, said, tag("div", images, class_="cards")]
    attributes = subject({"dataset": results.label_of(item), "method": item.say("method")})
    return tag("div", whole, class_="switch", data_contrasts=" ".join(contrasts), data_name=heading, **attributes)


def _frames(item: Item, image: Mapping[str, Any], pictures: Pictures) -> Markup:
    """Return one image: the photograph, and for each class a strip of heatmaps."""
    folder = item.path.parent
    photograph = pictures.show(_inside(folder, image["photograph"]), f"Photograph of {image['truth']}")
    title = tag("p", "is ", tag("b", image["truth"])) if image["truth"] else None
    strips = [tag("div", title, tag("figure", photograph), class_="strip photograph")]
    for i, (name, p) in enumerate(zip(image["names"], image["probabilities"], strict=True)):
        rank = f"t_{i + 1}"
        title = tag("p", tag("b", name), words(f" {rank}, p\u00a0=\u00a0{number(p, '.2f')}"))
        frames = [
            tag(
                "figure",
                pictures.show(_inside(folder, files[i]), f"{contrast} heatmap for {name}"),
                tag("figcaption", contrast),
                data_contrast=contrast,
            )
            for contrast, files in image["frames"].items()
        ]
        strips.append(tag("div", title, tag("div", frames, class_="frames"), class_="strip"))
    return tag("div", strips, class_="card")


def _inside(folder: Path, name: str) -> Path:
    """Return a file of the folder; a name that leads elsewhere does not."""
    return folder / Path(name).name
