"""Figs. 1, 4 and 5 of chosen images, and one image under every method and contrast, for datasets x models.

wcx gallery datasets=[cub] models=[vgg16] figures=[fig1,fig4,fig5,methods] count=4
wcx gallery datasets=[parts] models=[small_cnn] figures=[fig4] ids=[00012,00017] style=print formats=[pdf]

Each figure is <results>/gallery/<dataset>-<model>-<figure>.png and .pdf, with a .json of its rule, numbers and command beside it.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from wcx import contrasts, methods
from wcx.cli import application, blocks, grid, opening
from wcx.cli.blocks import Block
from wcx.cli.grid import Grid
from wcx.cli.quoting import CONF
from wcx.errors import choose
from wcx.experiments.gallery import FIGURES, GalleryJob, GallerySettings

_FILES = ("formats", "dpi", "scale", "style")
_OF_JOBS = ("figures", "methods", "contrasts", "limit", "batch_size", "num_workers", "on_error")


def job(cfg: DictConfig) -> GalleryJob:
    """Return the gallery of the configuration's dataset and model."""
    dataset = opening.test_images(cfg)
    groups = {"method": methods.names(), "contrast": contrasts.names()}
    options = {group: {name: _options(cfg, group, name) for name in names} for group, names in groups.items()}
    loaded = opening.open_model(cfg, dataset)
    return GalleryJob(
        dataset=dataset,
        loaded=loaded,
        settings=opening.settings(cfg, GallerySettings),
        method_options=options["method"],
        contrast_options=options["contrast"],
        dataset_label=cfg.dataset.get("label") or cfg.dataset.name,
        **{key: opening.plain(cfg[key]) for key in _OF_JOBS},
        confusion=opening.confusion(cfg, loaded),
    )


def draw(cfg: DictConfig, commands: dict[str, str]) -> None:
    """Make the figures of one dataset and model, and say where they are; with plan=true, say only which they would be."""
    for name in cfg.figures:
        choose("figure", name, FIGURES)
    folder = Path(cfg.paths.results_dir) / "gallery"
    if cfg.plan:
        who = f"{cfg.dataset.name}-{cfg.model.name}"
        count = len(cfg.ids) or cfg.count
        print(
            f"{count} images a figure, looked for until they are found:", *(folder / f"{who}-{f}" for f in cfg.figures)
        )
        return
    files = {key: opening.plain(cfg[key]) for key in _FILES}
    from wcx.report.pictures import gallery  # matplotlib is slow to import

    for paths in gallery.make(job(cfg), folder, commands=commands, **files):
        print("figure:", *paths, flush=True)


def run_cell(cfg: DictConfig) -> None:
    """Make the figures that run.py's configuration asks for."""
    typed = [argument for argument in sys.argv[1:] if not argument.startswith("figures=")]
    draw(cfg, {name: shlex.join(["wcx", *typed, f"figures=[{name}]"]) for name in cfg.figures})


def run(cfg: DictConfig) -> None:
    """Make the figures of every dataset and model; what fails is reported at the end, and the others are made."""
    for name in cfg.figures:
        choose("figure", name, FIGURES)
    asked = Grid.of(cfg)
    typed = [text for text in asked.overrides if not text.startswith("figures=")]

    def work(block: Block) -> None:
        dataset, model = block.pair
        pair = [f"dataset={dataset}", f"model={model}"]
        script = ["wcx", "gallery", f"datasets=[{dataset}]", f"models=[{model}]"]
        commands = {name: shlex.join([*script, f"figures=[{name}]", *typed]) for name in cfg.figures}
        draw(application.compose([*pair, *asked.overrides], "gallery"), commands)

    grid.fail(blocks.in_turn(asked.blocks(), work))


def _options(cfg: DictConfig, group: str, name: str) -> dict[str, object]:
    """Return the options of a method or contrast: of the configuration's own as set there, else of its YAML."""
    if cfg[group].name == name:
        return opening.options(cfg[group])
    chosen = OmegaConf.load(CONF / group / f"{name}.yaml")
    return opening.options(OmegaConf.create({"profile": cfg.profile, group: chosen})[group])
