"""The report's section on Fig. 3: the figure, and every change, difference and correlation behind it."""

from __future__ import annotations

import pandas as pd

from wcx.report.fig3_cells import COLUMNS
from wcx.report.html_cells import estimate, text, value
from wcx.report.html_elements import Column, Markup, command, join, table, tag, words
from wcx.report.html_images import Pictures
from wcx.report.html_results import Results
from wcx.report.html_section import Section, count, details, framed
from wcx.report.html_table1 import notes
from wcx.report.recorded import INTERVALS

_INTRO = (
    "Every pixel moves a little in the direction in which a contrast's gradient points, in so many steps; then we look at the "
    "true class: its logit y_t, its probability p_t, and whether it is the most probable. What explains the probability should "
    "move the probability, and the accuracy with it."
)
_SIGNS = {"logit": "y_t", "probability": "p_t", "accuracy": "accuracy"}
_SEVERAL = ("dataset", "method", "epsilon", "target_rule", "precision", "subset")  # columns shown where they differ
MOST_OPEN = 36  # rows of a table that is open from the start
FILLS = "make fig3 MODELS=alexnet LIMIT=100"


def section(results: Results, pictures: Pictures) -> Section:
    """Return the section."""
    changes, paired, correlation = (results.tables[f"fig3{name}"] for name in ("", "_paired", "_correlation"))
    files = sorted(results.folder.glob("fig3*.png"))
    alt = "Fig. 3: change of logit, probability and accuracy, by contrast and number of steps; the tables below hold the numbers."
    body: list[object] = [_untold(results, changes), [framed(pictures.show(file, alt)) for file in files]]
    if not changes.empty:
        body += [_networks(changes), tag("p", INTERVALS, class_="note")]
        body.append(
            _table("Change, by contrast and number of steps", changes, "delta", ["contrast", "iterations", "n"])
        )
    if not paired.empty:
        body.append(_table("Weighted against the others", paired, "difference", ["minus", "iterations", "n"]))
    if not correlation.empty:
        body.append(_correlations(correlation))
    networks = changes["model"].nunique()
    state = f"{count(networks, 'network')}, {count(len(changes), 'row')}" if networks else ""
    state = state or (count(len(files), "figure") if files else "")
    return Section("fig3", "Fig. 3: perturbation", state, join(body), (FILLS,), words(_INTRO))


def _networks(frame: pd.DataFrame) -> Markup:
    """Return what is to be said of the networks' numbers, those of the same weights and images together."""
    blocks = []
    for (dataset, subset), rows in frame.groupby(["dataset", "subset"], sort=False):
        said = dict.fromkeys(
            f"{model}: {weights}" for model, weights in zip(rows["model"], rows["weights"], strict=True)
        )
        n = "/".join(str(n) for n in dict.fromkeys(rows["n"]))
        blocks.append(
            tag(
                "div",
                tag("b", dataset),
                f" n = {n} images",
                notes([*([subset] if subset else []), *said]),
                class_="network",
            )
        )
    return join(blocks)


def _table(title: str, frame: pd.DataFrame, prefix: str, own: list[str]) -> Markup:
    numbers = [
        estimate(f"{prefix}_{name}", _SIGNS[name], f"{prefix}_{name}_ci_low", f"{prefix}_{name}_ci_high", form="+.4f")
        for name in COLUMNS
    ]
    titles = {"iterations": "steps", "minus": "weighted minus"}
    counts = {"iterations", "n"}
    columns = [
        value(name, titles.get(name, name), "d") if name in counts else text(name, titles.get(name, "")) for name in own
    ]
    whole = table(title, [text("model"), *_several(frame), *columns, *numbers], frame.to_dict("records"))
    return details(f"{title} ({count(len(frame), 'row')})", whole, open_=len(frame) <= MOST_OPEN)


def _correlations(frame: pd.DataFrame) -> Markup:
    title = "Do changes of accuracy go with those of p_t, or of y_t?"
    said = "Pearson's r over the conditions (contrast × steps) of one network; intervals over resampled images."
    numbers = [
        estimate(f"r_{name}", f"r with {_SIGNS[name]}", f"r_{name}_ci_low", f"r_{name}_ci_high", form="+.3f")
        for name in ("probability", "logit")
    ]
    columns = [text("model"), *_several(frame), value("conditions", "conditions", "d"), value("n", "n", "d"), *numbers]
    whole = table(words(title), columns, frame.to_dict("records"))
    return details(words(title), tag("p", said, class_="note"), whole, open_=True)


def _several(frame: pd.DataFrame) -> list[Column]:
    names = [name for name in _SEVERAL if name in frame and frame[name].nunique() > 1]
    return [value(name, "ε", "g") if name == "epsilon" else text(name, name.replace("_", " ")) for name in names]


def _untold(results: Results, changes: pd.DataFrame) -> Markup | None:
    """Say that there are records of the experiment and no table."""
    recorded = results.of("sign_perturbation")
    if not recorded or not changes.empty:
        return None
    said = f"{count(len(recorded), 'set')} of records are there, but no table of them; the command that made them writes it:"
    return tag("div", tag("p", said), command(FILLS), class_="empty")
