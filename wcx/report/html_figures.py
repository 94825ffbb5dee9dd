"""The report's sections of pictures: Fig. 3, galleries with the switch between contrasts, one's own photographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wcx.report import html_switch
from wcx.report.html_cells import estimate, text, value
from wcx.report.html_elements import Markup, command, join, subject, table, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Item, Results
from wcx.report.html_section import Section, count, details
from wcx.report.html_table1 import notes

_FIG3 = (
    "Every pixel moves a little in the direction in which a contrast's gradient points, n times, and we look at the true class: "
    "its logit, its probability, and the accuracy. A contrast that explains the probability should move the probability."
)
_GALLERY = (
    "Red speaks for the class and blue against it; white is zero. The images are chosen by the rule that stands with them, never "
    "by hand."
)
_SAID = (
    "figure",
    "title",
    "dataset_label",
    "dataset",
    "model",
    "method",
    "weights",
    "subset",
    "rule",
    "command",
    "words",
    "sentence",
)


def fig3(results: Results, pictures: Pictures) -> Section:
    """Return the section on Fig. 3."""
    frame, body = results.tables["fig3"], []
    files = sorted(results.folder.glob("fig3*.png"))
    for file in files:
        alt = "Change of logit, probability and accuracy by contrast and number of steps; the table holds the numbers."
        body.append(_figure(pictures.show(file, f"Fig. 3. {alt}")))
    if not frame.empty:
        for (weights, subset), rows in frame.groupby(["weights", "subset"], sort=False):
            models = ", ".join(dict.fromkeys(rows["model"]))
            body.append(
                tag("div", tag("b", models), notes([note for note in (weights, subset) if note]), class_="network")
            )
        body.append(details(f"Every number ({len(frame)} rows)", _fig3_table(frame), open_=len(frame) <= 36))
    recorded = {made.cell for made in results.of("sign_perturbation")}
    if recorded and frame.empty:
        said = (
            f"Records of {count(len(recorded), 'cell')} are there, but no table of them yet; make fig3 again writes it."
        )
        body.append(tag("div", tag("p", said), class_="empty"))
    networks = frame["model"].nunique()
    state = f"{count(networks, 'network')}, {count(len(frame), 'row')}" if networks else "1 figure" if files else ""
    fills = ("make fig3 MODELS=alexnet LIMIT=100",)
    return Section("fig3", "Fig. 3: gradient-sign perturbation", state, join(body), fills, words(_FIG3))


def _fig3_table(frame: Any) -> Markup:
    changes = [
        estimate(f"delta_{name}", f"change of {said}", f"delta_{name}_ci_low", f"delta_{name}_ci_high", form="+.4f")
        for name, said in (("logit", "y_t"), ("probability", "p_t"), ("accuracy", "accuracy"))
    ]
    columns = [
        *(text(name) for name in ("model", "method", "contrast")),
        value("epsilon", "ε", "g"),
        value("iterations", "steps", "d"),
        value("n", "n", "d"),
        *changes,
        *(text(name, name.replace("_", " ")) for name in ("dataset", "target_rule", "precision")),
    ]
    return table("Change after gradient-sign perturbation", columns, frame.to_dict("records"))


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
    intro = words("Why this class, and not that one? One’s own photographs, original and weighted side by side.")
    return Section(
        "photographs", "Photographs", count(len(items), "photograph") if items else "", join(body), fills, intro
    )


def _item(results: Results, item: Item, pictures: Pictures) -> Markup:
    """Return a figure with its caption: what it shows, how the images were chosen, the command."""
    where = item.path.relative_to(results.folder).as_posix()
    title = item.say("title") or item.say("figure") or item.path.stem.replace("-", " ").replace("_", " ")
    attributes = _subject(results, item)
    of = [attributes["data_dataset"], item.say("model"), item.say("method")]
    said, images = item.say("words") or item.say("sentence"), [_in_words(image) for image in _images(item)]
    caption = [
        tag("b", words(title)),
        [join(" · ", words(name)) for name in of if name],
        tag("p", words(said)) if said else None,
        notes([note for note in (item.say("weights"), item.say("subset")) if note]),
        tag("p", words(item.say("rule")), class_="note") if item.say("rule") else None,
        _more(item, where, images),
    ]
    alt = f"{title}. {' '.join(filter(None, of))}. {said or '; '.join(images)}".strip()
    return _figure(pictures.show(item.path, alt), caption, attributes)


def _more(item: Item, where: str, images: Sequence[str]) -> Markup:
    """Return what else is said of a figure, folded: command, file, images, and what its manifest holds."""
    pairs = [("file", where), *(("images" if i == 0 else "", one) for i, one in enumerate(images))]
    made = item.about.get("manifest")
    for about in (item.about, made if isinstance(made, dict) else {}):
        short = (key for key, value in about.items() if key not in _SAID and isinstance(value, (str, int, float)))
        pairs += [(key.replace("_", " "), str(about[key])) for key in short]
    listed = tag("dl", [tag("div", tag("dt", key), tag("dd", text)) for key, text in pairs])
    return details("How it was made", command(item.say("command")) if item.say("command") else None, listed)


def _images(item: Item) -> list[Mapping[str, Any]]:
    """Return what is said of each image of a figure."""
    images = item.about.get("images")
    return [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []


def _in_words(image: Mapping[str, Any]) -> str:
    """Return an image's id, its class, and what was predicted."""
    truth = f" is {image['truth']}" if image.get("truth") else ""
    pairs = zip(image.get("classes") or (), image.get("probabilities") or (), strict=False)
    predicted = ", ".join(f"{name} {p:.3f}" if isinstance(p, float) else str(name) for name, p in pairs)
    return f"{image.get('id', 'image')}{truth}" + (f"; predicted: {predicted}" if predicted else "")


def _figure(picture: Markup, caption: object = None, about: Mapping[str, Any] | None = None) -> Markup:
    plate = tag("div", picture, class_="plate", tabindex=0, role="region", aria_label="figure")
    return tag("figure", plate, tag("figcaption", caption) if caption else None, **(about or {}))


def _subject(results: Results, item: Item) -> dict[str, Any]:
    """Return the attributes to filter by; the methods are those the item names, or those of its images' maps."""
    maps = [one for image in _images(item) for one in image.get("maps") or () if isinstance(one, dict)]
    methods = item.about.get("method") or dict.fromkeys(str(one.get("method")) for one in maps)
    return subject({"dataset": results.label_of(item), "method": methods})


def commands(results: Results) -> Sequence[tuple[str, str]]:
    """Return (what, command) of every picture that names its command."""
    items = (*results.gallery, *results.photographs)
    return [
        (item.path.relative_to(results.folder).as_posix(), item.say("command")) for item in items if item.say("command")
    ]
