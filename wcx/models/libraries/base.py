"""What the libraries share: a network by name, its weights, the images that it takes, and the names of its outputs."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from wcx.errors import WcxError, choose, import_extra
from wcx.images import Normalized
from wcx.models.checkpoints import file_name, others
from wcx.models.factories import one_line
from wcx.models.load import LoadedModel, finetune_command, from_checkpoint
from wcx.models.state_dicts import fill, read_weights, weights_hash
from wcx.models.weights import SUFFIXES, located

_SETTLED = {"num_classes", "classes", "dataset", "device", "seed", "weights_dir"}  # by others than the user
log = logging.getLogger("wcx")


class Library(ABC):
    """A network of a library, before it is built, which reads no weights. A subclass stands in a file of its own.

    Args:
        name: as the library knows it, or a folder.
        options: for the network's constructor.
        classes: names of a dataset's classes, for a network whose outputs are made for them (CLIP); or None.
        weights: that will be asked for; they may take images in a way of their own.

    Raises:
        WcxError: see `describe`; or an option that the dataset or the network settles.

    Attributes:
        extra: of this package, that installs the library.
        own: options that are not the constructor's; `arguments` are the others.
        mean, std: of the normalisation.
        transform: of an image, fields of `datasets.as_transform`.
        class_names: of the outputs that it has by itself; None if it names none.
        outputs: how many those are; 0: it has no head.
        instead: of a checkpoint for a dataset's classes, what else can be done, for messages.
    """

    extra: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()
    mean: Sequence[float]
    std: Sequence[float]
    transform: dict[str, Any]
    class_names: list[str] | None = None
    outputs: int = 0
    instead: str = ""

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        classes: Sequence[str] | None = None,
        weights: str | Path | None = "auto",
    ) -> None:
        if given := sorted(_SETTLED & set(options)):
            raise WcxError(
                f"model.{given[0]} is not to be given: the dataset or the network itself settles it; leave it out."
            )
        self.name, self.options, self.classes, self.weights = str(name), dict(options), classes, weights
        self.arguments = {key: value for key, value in options.items() if key not in self.own}
        self.describe()

    @abstractmethod
    def describe(self) -> None:
        """Set the attributes of this network: how it takes images, and what its outputs are.

        Raises:
            WcxError: the library is not installed, or does not know the name.
        """

    def require(self, package: str) -> None:
        """Import a package of the library's.

        Raises:
            WcxError: it is not installed; the line names the extra.
        """
        import_extra(package, f"model={self.label()}", self.extra)

    @classmethod
    def label(cls) -> str:
        """Its name on the command line: that of its file."""
        return cls.__module__.rpartition(".")[2]

    @property
    def file_name(self) -> str:
        """The network's name in tables, records and checkpoints."""
        return file_name(self.name)

    @abstractmethod
    def build(self, num_classes: int | None, weights: str | None) -> nn.Module:
        """Return the network.

        Args:
            num_classes: None: as many as it has by itself.
            weights: None: random; "auto" or another that `tags` lists: pretrained, downloaded if need be.

        Raises:
            WcxError: an option that it does not take; weights that cannot be had.
        """

    def tags(self) -> list[str]:
        """Return the pretrained weights by name; "auto" is the usual."""
        return ["auto"]


def names() -> list[str]:
    """Return the names of all libraries."""
    package = importlib.import_module("wcx.models.libraries")
    return [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base"]


def get(library: str) -> type[Library]:
    """Return the class of a library.

    Raises:
        WcxError: no such library; the message lists those there are.
    """
    module = importlib.import_module(f"wcx.models.libraries.{choose('model.library', library, names())}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return next(c for c in classes if issubclass(c, Library))


def load(
    network: Library,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = "auto",
    checkpoint: str | Path | None = None,
    weights_dir: str | Path | None = None,
    layer: str | None = None,
    device: str | torch.device = "cpu",
    seed: int = 0,
    dataset: str | None = None,
    recipe: str = "head",
    choice: str | None = None,
) -> LoadedModel:
    """Build a library's network and load its weights; for the arguments see `models.load`.

    `weights`: "auto" is `<weights_dir>/<name>.*`, or else the library's own, downloaded if need be.

    Raises:
        WcxError: a network without a head, unless one is to be trained; weights that are missing or do not fit.
    """
    name = network.file_name
    if checkpoint is not None:
        if not Path(checkpoint).exists():
            command = finetune_command(dataset or Path(checkpoint).parent.name, choice or name, recipe)
            line = f"no checkpoint of {name} at {checkpoint}{others(checkpoint, name)}; make it with: {command}"
            raise WcxError(line + network.instead)
        return from_checkpoint(
            name, Path(checkpoint), layer, device, network.options, lambda n, _: network.build(n, None)
        )
    if num_classes is None and not network.outputs:
        command = finetune_command("<dataset>", choice or name, "head")
        raise WcxError(f"{name} has no classifier, only features; train one on them: {command}")
    label, path = _source(network, weights, weights_dir)
    tag = None if label == "random" or path else label
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(num_classes, tag).float().eval()
    if path:
        fill(net, read_weights(path), str(path), fine_tuning=num_classes is not None)
    return LoadedModel(
        net=net.to(device),
        model=Normalized(net, network.mean, network.std).to(device).eval(),
        name=name,
        layer=layer,
        class_names=None if num_classes else network.class_names,
        weights=f"file: {path.name}" if path else f"pretrained: {network.name}" if tag == "auto" else label,
        stand_in=False,
        weights_hash=weights_hash(net.state_dict()),
        transform=dict(network.transform),
        options=network.options,
    )


def _source(network: Library, weights: str | Path | None, folder: str | Path | None) -> tuple[str, Path | None]:
    """Return "random", a tag of the library's, or anything with a file."""
    if weights is None or str(weights) == "random":
        return "random", None
    if str(weights) == "auto":
        files = [Path(folder, f"{network.file_name}{suffix}") for suffix in SUFFIXES] if folder else []
        return "auto", next((file for file in files if file.is_file()), None)
    if (path := located(weights, folder)).is_file():
        return "file", path
    if Path(weights).suffix in SUFFIXES:
        raise WcxError(f"weights file not found: {weights} (nor in weights_dir: {folder}); check model.weights")
    return choose(
        f"weights of {network.name}", str(weights), [*network.tags(), "random", f"<file>{'|'.join(SUFFIXES)}"]
    ), None


def unavailable(network: Library, error: Exception) -> WcxError:
    """Return the error that pretrained weights cannot be had."""
    return WcxError(
        f"no weights for {network.name}: no {network.file_name}.* in weights_dir, and the download failed "
        f"({type(error).__name__}: {one_line(error)[:120]}); put the file there, or give model.weights=<file> or random"
    )
