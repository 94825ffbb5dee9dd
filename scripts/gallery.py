"""Figs. 1, 4 and 5 of chosen images, and one image under every method and contrast, for datasets x models.

python scripts/gallery.py datasets=[cub] models=[vgg16] figures=[fig1,fig4,fig5,methods] count=4
python scripts/gallery.py datasets=[parts] models=[small_cnn] figures=[fig4] ids=[00012,00017] style=print formats=[pdf]

Each figure is <results>/gallery/<dataset>-<model>-<figure>.png and .pdf, with a .json of its rule, numbers and command beside it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

from omegaconf import DictConfig, OmegaConf

from scripts import cli, quoting
from wcx import contrasts, methods
from wcx.errors import WcxError, choose
from wcx.experiments import gallery
from wcx.pipeline.gallery import GalleryJob, run_gallery

DEFAULTS = {"datasets": ["cub"], "models": ["vgg16"], "figures": list(gallery.FIGURES)}
LISTS = ("ids", "methods", "contrasts")  # may be left out
_FILES = ("formats", "dpi", "scale", "style")


def job(cfg: DictConfig) -> GalleryJob:
    """Return the gallery of the configuration's dataset and model."""
    dataset = cli.test_images(cfg)
    own = {"method": methods.names(), "contrast": contrasts.names()}
    options = {group: {name: _options(cfg, group, name) for name in names} for group, names in own.items()}
    return GalleryJob(
        dataset=dataset,
        loaded=cli.open_model(cfg, dataset),
        settings=cli.settings(cfg, gallery.Settings),
        figures=cli.plain(cfg.figures),
        methods=cli.plain(cfg.methods),
        contrasts=cli.plain(cfg.contrasts),
        method_options=options["method"],
        contrast_options=options["contrast"],
        dataset_label=cfg.dataset.get("label") or cfg.dataset.name,
        limit=cfg.limit,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
        on_error=cfg.on_error,
    )


def draw(cfg: DictConfig, commands: dict[str, str]) -> None:
    """Make the figures of one dataset and model, and say where they are; with plan=true, say only which they would be."""
    folder = Path(cfg.paths.results_dir) / "gallery"
    if cfg.plan:
        who = f"{cfg.dataset.name}-{cfg.model.name}"
        count = len(cfg.ids) or cfg.count
        print(
            f"{count} images a figure, looked for until they are found:", *(folder / f"{who}-{f}" for f in cfg.figures)
        )
        return
    files = {key: cli.plain(cfg[key]) for key in _FILES}
    for made in run_gallery(job(cfg), folder, commands=commands, **files):
        print("figure:", *made, flush=True)


def run(cfg: DictConfig) -> None:
    """Make the figures that run.py's configuration asks for."""
    rest = [argument for argument in sys.argv[1:] if not argument.startswith("figures=")]
    draw(cfg, {name: command("run.py", [*rest, f"figures=[{name}]"]) for name in cfg.figures})


def command(script: str, arguments: Sequence[str]) -> str:
    """Return a command line that can be pasted into a shell."""
    return shlex.join(["python", script, *arguments])


def main() -> None:
    """Make the figures of every dataset and model; what fails is reported at the end, and the others are made."""
    names = {argument.partition("=")[0] for argument in sys.argv[1:]}
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS | {name: [] for name in LISTS})
    cli.check_overrides([f"{key[:-1]}={','.join(lists[key])}" for key in ("datasets", "models")] + overrides)
    for name in lists["figures"]:
        choose("figure", name, gallery.FIGURES)
    typed = [f"{key}={quoting.listed(lists[key])}" for key in LISTS if key in names] + overrides
    failures = []
    for dataset in lists["datasets"]:
        for model in lists["models"]:
            cfg = cli.compose([f"dataset={dataset}", f"model={model}", "experiment=gallery", *overrides])
            for key in ("figures", *LISTS):
                OmegaConf.update(cfg, key, lists[key])
            one = [f"datasets=[{dataset}]", f"models=[{model}]"]
            commands = {f: command("scripts/gallery.py", [*one, f"figures=[{f}]", *typed]) for f in lists["figures"]}
            try:
                draw(cfg, commands)
            except WcxError as error:
                failures.append(f"failed: {dataset} {model}: {error}")
    if failures:
        print(*failures, sep="\n", file=sys.stderr)
        sys.exit(1)


def _options(cfg: DictConfig, group: str, name: str) -> dict[str, object]:
    """Return the options of a method or contrast: of the configuration's own as set there, else of its YAML."""
    if cfg[group].name == name:
        return cli.options(cfg[group])
    chosen = OmegaConf.load(cli.CONF / group / f"{name}.yaml")
    return cli.options(OmegaConf.create({"profile": cfg.profile, group: chosen})[group])


if __name__ == "__main__":
    cli.guarded(main)
