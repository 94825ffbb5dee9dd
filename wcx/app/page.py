"""The page: a form and an answer. Everything is computed elsewhere, and a visitor's state is a visitor's own."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from PIL import Image

from wcx import methods
from wcx.app import answers, html
from wcx.app.answers import Answer, Asked, Upload
from wcx.app.networks import Networks
from wcx.errors import WcxError

TITLE = "# Why this class, but not that one?\nDrop a photograph or take a drawn bird, choose a network, and ask."
LARGEST = "200mb"  # of a file that is uploaded
QUIET = {"show_progress": "minimal", "api_visibility": "private", "concurrency_id": "network", "concurrency_limit": 2}


class Visit:
    """What one visitor has, in memory: gone with the page.

    Attributes:
        upload: the photograph.
        answer: the newest.
        drawn: the answer whose files are on the page, or about to be.
        asked: what the page answers, or is about to, as the form has it: when it was sent, and afterwards.
    """

    def __init__(self) -> None:  # no dataclass: gradio would ask for its fields
        self.upload: Upload | None = None
        self.answer: Answer | None = None
        self.drawn: Answer | None = None
        self.asked: list[tuple[Any, ...]] = []

    def take(self, upload: Upload) -> None:
        """Take a photograph: nothing has been asked about it yet."""
        self.upload, self.answer, self.asked = upload, None, []

    def photograph(self) -> Upload:
        """Return the photograph.

        Raises:
            WcxError: there is none yet.
        """
        if self.upload is None:
            raise WcxError("Drop a photograph, or take a drawn bird.")
        return self.upload


def blocks(networks: Networks, offered: Sequence[str]) -> gr.Blocks:
    """Return the page.

    Args:
        networks: what visitors can ask.
        offered: names of networks in the list.
    """
    first = networks.first.name
    with gr.Blocks(title="wcx", analytics_enabled=False) as page:
        visit = gr.State(Visit())  # copied for each visitor; a function would be called again when the page has loaded
        gr.Markdown(TITLE)
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                file = gr.File(label="Photograph", height=120, elem_id="photograph")
                birds = gr.Gallery(
                    [Image.open(BytesIO(bird.content)) for bird in answers.examples()],
                    label="or a drawn bird", columns=5, height=None, allow_preview=False, interactive=False,
                    buttons=[], elem_id="examples", format="png",
                )  # fmt: skip
                network = gr.Dropdown(
                    list(dict.fromkeys([first, *offered])), value=first, label="Network", allow_custom_value=True,
                    info="of torchvision; or type timm/<name> or hf/<name on the hub>", elem_id="network",
                )  # fmt: skip
                likeliest = gr.HTML(label="Likeliest classes", show_label=True, container=True, elem_id="likeliest")
                target = gr.Dropdown([], label="Why", allow_custom_value=True, elem_id="target")
                foils = gr.Dropdown([], label="and not", multiselect=True, allow_custom_value=True, elem_id="foils")
                method = gr.Dropdown(answers.method_names(), value=answers.METHOD, label="Method", elem_id="method")
                contrast = gr.Dropdown(
                    answers.contrast_names(), value=answers.CONTRAST, label="Contrast", elem_id="contrast"
                )
                layer = gr.Dropdown([], label="Layer", allow_custom_value=True, elem_id="layer")
                strongest = gr.Slider(
                    0, 100, 100, step=5, label="Hidden, of the pixels against the class (%)",
                    info="the strongest first", elem_id="strongest",
                )  # fmt: skip
            with gr.Column(scale=2, min_width=320):
                line, shown, links = gr.HTML(elem_id="line"), gr.HTML(elem_id="answer"), gr.HTML(elem_id="files")
                code = {"wrap_lines": True, "lines": 1, "show_line_numbers": False}
                command = gr.Code(language="shell", label="The same from the command line", elem_id="command", **code)
                python = gr.Code(language="python", label="Its maps in Python", elem_id="python", **code)
        outputs = [line, shown, links, likeliest, target, foils, layer, strongest, command, python]
        form = [target, foils, method, contrast, layer, strongest]

        def read(visit: Visit, path: str | None) -> None:
            if path:
                visit.take(taken(Path(path)))

        def example(visit: Visit, event: gr.SelectData) -> None:
            visit.take(answers.examples()[event.index])

        @answering(line, shown, links)
        def begin(visit: Visit, name: str, method: str, contrast: str) -> tuple[Answer, dict[Component, Any]]:
            chosen, upload = networks.get(name), visit.photograph()
            reply = answers.answer(chosen, upload, Asked(method=method, contrast=contrast))
            names, layers = list(chosen.classes), chosen.layers(upload.pixels(chosen.transform))
            return reply, values(reply) | {
                target: gr.update(choices=names, value=reply.shown.target),
                foils: gr.update(choices=names, value=reply.shown.foils),
                layer: gr.update(choices=layers, **layer_of(reply)),
            }

        @answering(line, shown, links)
        def ask(visit: Visit, name: str, *form: Any) -> tuple[Answer, dict[Component, Any]]:
            asked = Asked(*form)
            asked = replace(asked, strongest=asked.strongest / 100)
            reply = answers.following(visit.answer, networks.get(name), visit.photograph(), asked)
            return reply, values(reply)

        def values(reply: Answer) -> dict[Component, Any]:
            return {
                line: "", shown: html.page(reply), links: "",
                likeliest: html.likeliest(reply.photograph.predictions()),
                target: reply.shown.target, foils: reply.shown.foils, layer: gr.update(**layer_of(reply)),
                strongest: 100 * reply.asked.strongest, command: reply.command(), python: reply.python(),
            }  # fmt: skip

        def download(visit: Visit) -> Any:
            reply = visit.answer
            if reply is None or reply is visit.drawn:
                return gr.skip()
            visit.drawn = reply
            text = html.files(reply)
            return text if visit.answer is reply else gr.skip()  # drawing takes a while: there may be a newer answer

        whole, again = [visit, network, method, contrast], [visit, network, *form]
        last = {"trigger_mode": "always_last", **QUIET}
        events = [
            file.upload(read, [visit, file], **QUIET)
            .then(lambda: None, None, file, **QUIET)
            .then(begin, whole, outputs, **QUIET),
            birds.select(example, visit, **QUIET).then(begin, whole, outputs, **QUIET),
            network.input(begin, whole, outputs, **last),
            gr.on([setting.input for setting in form], ask, again, outputs, **last),
        ]
        for event in events:
            event.then(download, visit, links, **{**last, "concurrency_id": "files"})
    return page


def taken(path: Path) -> Upload:
    """Return a file that was uploaded, and remove it."""
    upload = Upload(path.name, path.read_bytes())
    path.unlink()
    return upload


def layer_of(reply: Answer) -> dict[str, Any]:
    """Return what the list of layers shows: none for a method that explains the input."""
    return {"value": reply.photograph.layer, "interactive": methods.get(reply.asked.method).space == "activation"}


def answering(
    line: Component, *rest: Component
) -> Callable[[Callable[..., tuple[Answer, dict[Component, Any]]]], Callable[..., dict[Component, Any]]]:
    """Decorate what answers a visitor: an error is a line on the page, in the place of `rest`, the answer.

    What the page answers already is not computed again: gradio sends a choice twice, and once more when a list is left as it
    was. What was overtaken by a newer question is not shown.
    """

    def decorate(function: Callable[..., tuple[Answer, dict[Component, Any]]]) -> Callable[..., dict[Component, Any]]:
        @wraps(function)
        def answered(visit: Visit, *form: Any) -> dict[Component, Any]:
            same = {line: gr.skip()}
            if form in visit.asked:
                return same
            asked = visit.asked = [form]
            reply: Answer | None = None
            outputs: dict[Component, Any] = dict.fromkeys(rest, "")
            try:
                reply, outputs = function(visit, *form)
            except WcxError as error:
                outputs[line] = html.line(str(error))
            except Exception as error:
                traceback.print_exception(error)
                outputs[line] = html.line(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            if visit.asked is not asked:
                return same
            visit.answer = reply
            visit.asked = [form, *forms_of(reply)] if reply else []
            return outputs

        return answered

    return decorate


def forms_of(reply: Answer) -> list[tuple[Any, ...]]:
    """Return what `begin` and `ask` get from a form that shows an answer."""
    name, shown = reply.network.name, reply.shown
    form = (shown.target, shown.foils, shown.method, shown.contrast, shown.layer, 100 * shown.strongest)
    return [(name, shown.method, shown.contrast), (name, *form)]
