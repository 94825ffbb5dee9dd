"""What an experiment can tell of a block before its network is trained or loaded."""

from __future__ import annotations

from collections.abc import Iterable

from wcx.datasets import ImageDataset
from wcx.datasets.cub import Cub
from wcx.datasets.twins import Twins
from wcx.errors import WcxError
from wcx.experiments import Experiment
from wcx.experiments.base import check_method


def check(
    experiment: type[Experiment],
    dataset: ImageDataset,
    methods: Iterable[str],
    limit_selected: int | None = None,
    *,
    save_maps: bool = False,
) -> None:
    """Check what an experiment can tell without its network.

    Raises:
        WcxError: a dataset, a method or a setting that it does not take.
    """
    name = experiment.name()
    if save_maps and not experiment.keeps_maps:
        raise WcxError(f"save_maps=true: experiment {name} keeps no maps; leave it out.")
    if limit_selected is not None and not experiment.selects:
        raise WcxError(f"limit_selected: experiment {name} selects no images; give limit=... instead.")
    if experiment.needs_twins and not _has_twins(dataset):
        raise WcxError(
            f"experiment {name} needs images whose parts have another look, and dataset {dataset.name} as it was opened "
            f"has none; give dataset=parts dataset.families=factorial, and no cache."
        )
    if experiment.needs_anatomy and not (isinstance(dataset, Cub) and dataset.has_anatomy):
        raise WcxError(
            f"experiment {name} needs the points of parts and the attributes of classes, which dataset {dataset.name} as "
            f"it was opened lacks; give dataset=cub with its parts/ and attributes/, and no cache."
        )
    for method in methods:
        check_method(experiment, method)


def _has_twins(dataset: ImageDataset) -> bool:
    return isinstance(dataset, Twins) and any(dataset.swaps(i) for i in range(len(dataset)))
