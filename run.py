"""One cell (dataset, model, method, contrast), or a sweep of them with -m.

python run.py                                                  the embedded default: drawn birds, a small network
python run.py dataset=cub method=gradcam contrast=weighted     the paper's cell (vgg16)
python run.py -m dataset=cub,cars contrast=original,weighted   a sweep
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from scripts import cli
from wcx import methods, pipeline
from wcx.errors import WcxError
from wcx.experiments.masking import Cell, Settings
from wcx.report import selected, table1


def job(cfg: DictConfig) -> pipeline.Job:
    """Return the masking job that the configuration asks for."""
    name = cfg.method.name
    if methods.get(name).space != "activation":
        raise cli.Skip(
            f"experiment masking needs an activation method, not {name}; try: {', '.join(pipeline.activation_methods())}."
        )
    dataset = cli.open_dataset(cfg, "test")
    return pipeline.Job(
        dataset=dataset,
        loaded=cli.open_model(cfg, dataset),
        cells=[Cell(name, cfg.contrast.name)],
        settings=cli.settings(cfg, Settings),
        method_options={name: cli.options(cfg.method)},
        contrast_options={cfg.contrast.name: cli.options(cfg.contrast)},
        results_dir=Path(cfg.paths.results_dir),
        dataset_label=cfg.dataset.get("label") or cfg.dataset.name,
        limit=cfg.limit,
        limit_selected=cfg.limit_selected,
        seed=cfg.seed,
        batch_size=cfg.batch_size,
        chunk_size=cfg.chunk_size,
        num_workers=cfg.num_workers,
        on_error=cfg.on_error,
    )


def run(cfg: DictConfig) -> None:
    """Run the cell, or print its plan."""
    if cfg.experiment != "masking":
        raise WcxError(f"experiment {cfg.experiment} is not here yet; choose experiment=masking.")
    block = job(cfg)
    if cfg.plan:
        print(*(f"{key}: {value}" for key, value in pipeline.plan_masking(block).items()), sep="\n")
        return
    shards, passes = pipeline.run_masking(block, OmegaConf.to_yaml(cfg, resolve=True))
    folder = shards[0].path
    table = table1.table(shards)
    table.to_csv(folder / "summary.csv", index=False, float_format="%.6f")
    print(table1.text(table))
    print(f"passes (images): {dict(passes) or 'none, all records were there'}")
    print(f"records, summary.csv, manifest.json: {folder}")
    samples = pipeline.samples(block, shards[0], cfg.figure)
    if samples:
        title = f"{cli.job_name(cfg)}: the first {len(samples)} images with p_t2 > {cfg.threshold}; red speaks for the class, blue against; one scale an image"
        print(f"figure: {selected.figure(samples, folder / 'selected.png', title)}")


if __name__ == "__main__":
    cli.main(run)
