"""A page on this machine: drop a photograph, and ask a network why this class, but not that one.

wcx app                                                        small_cnn on drawn birds; trained first, if it is not
wcx app model=resnet18
wcx app dataset=cub model=alexnet                              a fine-tuned network, by its checkpoint
wcx app model=custom model.factory=mine.nets:make model.weights=mine.pth model.classes=labels.txt
wcx app host=0.0.0.0 port=8080                                 for all who reach this machine; else for this machine alone

Other networks are chosen on the page. Needs gradio: pip install 'wcx[app]'
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from wcx import models
from wcx.app import server
from wcx.app.networks import Network, Networks
from wcx.cli import application, opening
from wcx.cli.commands import demo, finetune, photo
from wcx.cli.quoting import groups
from wcx.errors import WcxError, choose, import_extra
from wcx.models import custom, libraries
from wcx.paths import exists

SMALL = ("model=small_cnn", "dataset=parts")
NOT_OF_NETWORKS = ("host=", "port=", "experiment=")  # settings of the page


def complete(arguments: Sequence[str]) -> list[str]:
    """Return the command line with what a network implies: ImageNet, or of small_cnn the drawn birds; and what its layer does."""
    value = dict(argument.partition("=")[::2] for argument in arguments)
    usual = "dataset=parts" if value.get("model", "small_cnn") == "small_cnn" else "dataset=imagenet"
    return [*arguments, *[usual] * ("dataset" not in value), *photo.pair_layer(value)]


def run(cfg: DictConfig) -> None:
    """Serve the page until it is stopped."""
    typed = [argument for argument in complete(sys.argv[1:]) if not argument.startswith(NOT_OF_NETWORKS)]
    shared = [argument for argument in typed if re.match("paths|device", argument)]
    on = "" if cfg.dataset.name in ("imagenet", "parts") else f" on {cfg.dataset.name}"
    with server.folder():
        import_extra("gradio", "wcx app", "app")
        networks = Networks(opened(f"{cfg.model.name}{on}", cfg, typed), lambda name: by_name(name, shared))

        from wcx.app import page  # gradio

        server.serve(page.blocks(networks, choices()), str(cfg.host), cfg.port)


def choices() -> list[str]:
    """Return the networks that are offered by name; others of timm and the hub are typed."""
    return ["small_cnn", *(name for name in models.names() if name != "small_cnn")]


def by_name(name: str, shared: Sequence[str] = ()) -> Network:
    """Open a network that a visitor names: of conf/model or torchvision, timm/<name>, or hf/<name on the hub>.

    Raises:
        WcxError: there is no such network; a path: visitors open none.
    """
    library, slash, inner = name.strip().partition("/")
    if name.strip() == "small_cnn":
        chosen = [*SMALL]
    elif slash and library in ("timm", "hf"):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", inner) or ".." in inner or exists(inner):
            raise WcxError(
                f"network {name!r}: give {library}/<name>, no path; a folder is opened by wcx app model={library}."
            )
        chosen = [f"model={library}", f"model.name={inner}", "dataset=imagenet"]
    else:
        known = {*models.names(), *groups()["model"]} - {*libraries.names(), "custom", "torchvision"}
        choose("network", name.strip(), [*known, "timm/<name>", "hf/<name>"])
        has_file = name.strip() in groups()["model"]
        chosen = [f"model={name.strip()}"] if has_file else ["model=torchvision", f"model.name={name.strip()}"]
        chosen.append("dataset=imagenet")
    typed = [*chosen, *shared]
    return opened(name, application.compose(typed, "app"), typed)


def opened(name: str, cfg: DictConfig, overrides: Sequence[str]) -> Network:
    """Return the network of a configuration; small_cnn on drawn birds is trained first, if it is not, as `wcx demo` does."""
    dataset = photo.labelled(cfg)
    call = opening.loading(cfg, dataset)
    checkpoint = call.keywords.get("checkpoint")
    if (cfg.dataset.name, cfg.model.name) == ("parts", "small_cnn") and checkpoint and not Path(checkpoint).exists():
        print(f"no checkpoint {checkpoint}: small_cnn is trained on drawn birds first, about a minute", flush=True)
        paths = [argument for argument in overrides if argument.startswith("paths.")]
        finetune.run(application.compose([*demo.TRAINING, *paths], "finetune"))
    loaded = opening.open_model(cfg, dataset)
    return Network(
        name=name,
        loaded=loaded,
        classes=photo.outputs(cfg, loaded),
        transform=photo.input_transform(cfg, loaded),
        overrides=[argument for argument in overrides if argument != "dataset=imagenet"],
        python=python(call),
        layer=cfg.pair_layer,
        remarks=photo.remarks(cfg),
    )


def python(call: partial[models.LoadedModel]) -> str:
    """Return the Python lines that make a call of `models.load` or `custom.load`, without what is its default."""
    parameters = inspect.signature(call.func).parameters
    stated = {
        key: str(value) if key in ("device", "checkpoint") and value else value for key, value in call.keywords.items()
    }
    needless = {"layer", "recipe", "choice", "dataset"}  # the layer stands in the call that explains
    needless |= {"weights", "weights_dir", "pinned"} if stated.get("checkpoint") else set()
    needless |= {"classes"} if call.func is models.load and stated.get("library") != "clip" else set()
    usual = {key: parameter.default for key, parameter in parameters.items()}
    shown = {k: v for k, v in stated.items() if k not in needless and not (k in usual and v == usual[k])}
    module = "custom" if call.func is custom.load else "models"
    package = "wcx.models" if module == "custom" else "wcx"
    arguments = ", ".join(f"{key}={value!r}" for key, value in shown.items())
    return f"from {package} import {module}\n\nloaded = {module}.load({arguments})"
