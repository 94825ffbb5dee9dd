"""The report's sections of pictures: galleries with the switch between contrasts, and one's own photographs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wcx.report import html_switch
from wcx.report.html_elements import Markup, command, join, subject, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Item, Results
from wcx.report.html_section import Section, count, details, framed
from wcx.report.html_table1 import notes

_GALLERY = (
    "Red speaks for the class and blue against it; white is zero. The images are chosen by the rule that stands with them, never "
    "by hand."
)
_SAID = {  # told in the caption itself
    *("figure", "title", "question", "dataset_label", "dataset", "model", "method"),
    *("weights", "subset", "rule", "command", "image"),
}


def gallery(results: Results, pictures: Pictures) -> Section:
    """Return the section of galleries: heatmaps to switch between contrasts, then the figures."""
    body = [html_switch.switch(results, item, pictures) for item in results.switches]
    body += [_item(results, item, pictures) for item in (*results.gallery, *results.figures)]
    figures = len(results.gallery) + len(results.figures)
    parts = [count(len(results.switches), "comparison")] if results.switches else []
    parts += [count(figures, "figure")] if figures else []
    fills = ("make gallery DATASETS=cub MODELS=vgg16", "make table1    # draws the first selected images, too")
    return Section("gallery", "Galleries", ", ".join(parts), join(body), fills, words(_GALLERY))


def photographs(results: Results, pictures: Pictures) -> Section:
    """Return the section of one's own photographs."""
    items = results.photographs
    body = [_item(results, item, pictures) for item in items]
    fills = ("python run.py image=photo.jpg model=squeezenet1_1",)
    intro = words("Why this class, and not that one? Each class against the other, against all others, and alone.")
    return Section(
        "photographs", "Photographs", count(len(items), "photograph") if items else "", join(body), fills, intro
    )


def _item(results: Results, item: Item, pictures: Pictures) -> Markup:
    """Return a figure with its caption: what it shows, how the images were chosen, the command."""
    where = item.path.relative_to(results.folder).as_posix()
    title = item.say("title") or item.say("question") or re.sub("[-_]", " ", item.path.stem)
    attributes = _subject(results, item)
    of = [attributes["data_dataset"], item.say("model"), item.say("method")]
    stand_in = ["stand-in weights"] if item.about.get("stand_in") and "stand-in" not in item.say("weights") else []
    said, images = _strings(item.about.get("sentences")), [_in_words(image) for image in _images(item)]
    caption = [
        tag("b", words(title)),
        [join(" · ", words(name)) for name in of if name],
        [tag("p", words(sentence)) for sentence in said],
        notes([note for note in (item.say("weights"), *stand_in, item.say("subset")) if note]),
        tag("p", words(item.say("rule")), class_="note") if item.say("rule") else None,
        _more(item, where, images),
    ]
    alt = f"{title}. {' '.join(filter(None, of))}. {' '.join(said) or '; '.join(images)}".strip()
    return framed(pictures.show(item.path, alt), caption, attributes)


def _more(item: Item, where: str, images: Sequence[str]) -> Markup:
    """Return what else is said of a figure, folded: command, file, images, and what its manifest holds."""
    pairs = [("file", where), *(("images" if i == 0 else "", one) for i, one in enumerate(images))]
    made = item.about.get("manifest")
    for about in (item.about, made if isinstance(made, dict) else {}):
        short = (key for key, value in about.items() if key not in _SAID and isinstance(value, (str, int, float)))
        pairs += [(key.replace("_", " "), str(about[key])) for key in short]
    listed = tag("dl", [tag("div", tag("dt", key), tag("dd", text)) for key, text in pairs])
    return details("How it was made", command(item.command) if item.command else None, listed)


def _images(item: Item) -> list[Mapping[str, Any]]:
    """Return what is said of each image of a figure; a photograph's file says it of itself."""
    if top := _objects(item.about.get("predictions")):
        own = {"classes": [one.get("class") for one in top], "probabilities": [one.get("p") for one in top]}
        return [own | {"id": Path(item.say("image")).name}]
    return _objects(item.about.get("images"))


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _strings(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _in_words(image: Mapping[str, Any]) -> str:
    """Return an image's id, its class, and what was predicted."""
    truth = f" is {image['truth']}" if image.get("truth") else ""
    pairs = zip(image.get("classes") or (), image.get("probabilities") or (), strict=False)
    predicted = ", ".join(f"{name} {p:.3f}" if isinstance(p, float) else str(name) for name, p in pairs)
    return f"{image.get('id', 'image')}{truth}" + (f"; predicted: {predicted}" if predicted else "")


def _subject(results: Results, item: Item) -> dict[str, Any]:
    """Return the attributes to filter by; the methods are those the item names, or those of its images' maps."""
    maps = [one for image in _images(item) for one in _objects(image.get("maps"))]
    methods = item.about.get("method") or dict.fromkeys(str(one.get("method")) for one in maps)
    return subject({"dataset": results.label_of(item), "method": methods})
