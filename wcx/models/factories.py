"""Factories: a function or class of one's own that makes a network, imported from the current folder and called."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from wcx.errors import WcxError, choose

log = logging.getLogger("wcx")

_HOME = Path(__file__).resolve().parents[1]  # the checkout, whose scripts and tests have names that others use too
_LIBRARIES = {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
_REFUSED = re.compile(r"(unexpected keyword argument|multiple values for (keyword )?argument) '?num_classes")


def build(factory: str, num_classes: int, seed: int) -> nn.Module:
    """Import a factory, call it, and return its network, in float32 and on whatever device it is.

    Args:
        factory: "package.module:name" of a function, a class, anything else that can be called, or a network. It is
            searched in the current folder first, then wherever Python looks.
        num_classes: handed on as a keyword if the signature names `num_classes`, or has **kwargs and they take it.
        seed: of random weights; the global generators are left alone.

    Raises:
        WcxError: it cannot be imported or called, or gives no network that can be explained.
    """
    module_name, colon, name = str(factory).partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise WcxError(f"model.factory={factory} is not understood; give package.module:function.")
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` has it, but last: nothing else is hidden by files that lie there
        sys.path.append(folder)
    with _folder_first(module_name), torch.random.fork_rng(devices=[]):
        net = _call(factory, _find(factory, module_name, name), num_classes, seed)
    if not isinstance(net, nn.Module):
        raise WcxError(f"model.factory={factory} returned a {type(net).__name__}, expected a torch.nn.Module.")
    return _float32(factory, net)


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def _find(factory: str, module_name: str, name: str) -> Callable[..., Any]:
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that reads its arguments as it is imported
        raise WcxError(
            f"model.factory={factory}: cannot import {module_name} ({type(error).__name__}: {one_line(error)}); run from "
            f"the folder that holds it, or put that on PYTHONPATH."
        ) from error
    if not callable(function := getattr(module, name, None)):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        choose(f"function of {module_name}", name, functions)
    return function


def _call(factory: str, function: Callable[..., Any], num_classes: int, seed: int) -> object:
    """Call a factory with the number of classes if it takes that.

    **kwargs are tried with it first, and without it only if it is `num_classes` that they refuse, or set themselves; any other
    error is the factory's own.
    """
    if isinstance(function, nn.Module):
        return copy.deepcopy(function)  # the module keeps its network as it is
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # some functions written in C have no signature
        parameters = {}
    is_named = "num_classes" in parameters and parameters["num_classes"].kind != inspect.Parameter.POSITIONAL_ONLY
    is_open = any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    attempts = [{"num_classes": num_classes}] * (is_named or is_open) + [{}] * (not is_named)
    for arguments in attempts:
        torch.manual_seed(seed)
        try:
            return function(**arguments)
        except (Exception, SystemExit) as error:  # whatever a stranger's function raises
            if arguments and not is_named and isinstance(error, TypeError) and _REFUSED.search(str(error)):
                continue
            called = f"{factory.partition(':')[2]}({', '.join(f'{k}={v}' for k, v in arguments.items())})"
            raise WcxError(
                f"model.factory={factory}: {called} failed ({type(error).__name__}: {one_line(error)}); it must work without "
                f"arguments, or with num_classes."
            ) from error
    raise AssertionError("unreachable")


def _float32(factory: str, net: nn.Module) -> nn.Module:
    """Return the network in float32, as images are and weight files become.

    Raises:
        WcxError: it is quantised, without values, or was made under torch.inference_mode.
    """
    tensors = [*net.parameters(), *net.buffers()]
    quantised = [name for name, module in net.named_modules() if _is_quantised(module)]
    if quantised or any(not is_lazy(tensor) and tensor.is_quantized for tensor in tensors):
        raise WcxError(
            f"model.factory={factory} returned a quantised network{f' (its {quantised[0]!r})' * bool(quantised)}, through "
            f"which no gradient flows; give the network as it was before it was quantised."
        )
    if any(tensor.is_meta for tensor in tensors):
        raise WcxError(
            f"model.factory={factory} returned a network on the meta device, without values; make it on the CPU."
        )
    if any(not is_lazy(tensor) and tensor.is_inference() for tensor in tensors):
        raise WcxError(
            f"model.factory={factory} made its network under torch.inference_mode, where no gradient can ever flow; make it "
            f"outside of that."
        )
    coarse = {str(t.dtype).removeprefix("torch.") for t in tensors if t.dtype.is_floating_point} - {"float32"}
    if coarse:
        log.info("%s: weights in %s become float32, as images are", factory, " and ".join(sorted(coarse)))
        net.float()
    return net


def _is_quantised(module: nn.Module) -> bool:
    """Return whether a module is one of torch's quantised ones; FloatFunctional, an addition that may become one, is not."""
    kind = type(module)
    return kind.__module__.startswith("torch.") and ".quantized." in kind.__module__ and "Float" not in kind.__name__


@contextmanager
def _folder_first(module_name: str) -> Iterator[None]:
    """Let the modules beside the factory's be found where others of the same name would hide them.

    Those are the factory's own, and any that our checkout has a module of the same name for (scripts, tests). Modules that were
    imported before are out of the way meanwhile, and back afterwards: they are somebody else's.
    """
    finder = _FolderFinder(module_name)
    loaded = {name.partition(".")[0] for name in sys.modules}
    hiding = {name for name in loaded if finder.spec(name) is not None and finder.hides(sys.modules.get(name))}
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in hiding}
    importlib.invalidate_caches()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] in hiding]:
            del sys.modules[name]
        sys.modules.update(aside)


class _FolderFinder:
    """Finds modules in one folder, though others of the same name come first on Python's path.

    That is the first folder, of the current one and those on Python's path, in which the factory's module lies as a file.

    Args:
        module_name: the factory's module.
    """

    def __init__(self, module_name: str) -> None:
        self.top = module_name.partition(".")[0]
        place = Path(*module_name.split("."))
        folders = [folder for folder in map(Path, [Path.cwd(), *sys.path]) if _has_module(folder / place)]
        self.has_factory, self.folder = bool(folders), [*folders, Path.cwd()][0].resolve()

    def find_spec(self, name: str, path: object = None, *_target: object) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        return self.spec(name) if path is None else None

    def spec(self, name: str) -> ModuleSpec | None:
        """Return where the folder has the module `name`, if that is to come first."""
        spec = None if name == "wcx" else PathFinder.find_spec(name, [str(self.folder)])
        if spec is None or (name == self.top and self.has_factory):
            return spec
        usual = getattr(sys.modules.get(name), "__spec__", None) or PathFinder.find_spec(name)
        return spec if _home(usual) == _HOME and _HOME not in _LIBRARIES else None

    def hides(self, module: ModuleType | None) -> bool:
        """Return whether a module that was imported is another than the folder's, and no library's."""
        home = _home(getattr(module, "__spec__", None))
        return home is not None and home != self.folder and home not in _LIBRARIES


def _has_module(place: Path) -> bool:
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def _home(spec: ModuleSpec | None) -> Path | None:
    """Return the folder in which a top-level module lies; None if in none."""
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        return None
    places = list(spec.submodule_search_locations or [])
    return (Path(places[0]) if places else Path(spec.origin)).resolve().parent
