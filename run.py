"""One cell (dataset, model, method, contrast), or a sweep of them with -m.

python run.py                                                  the embedded default: drawn birds, a small network
python run.py dataset=cub method=gradcam contrast=weighted     the paper's cell (vgg16)
python run.py -m dataset=cub,cars contrast=original,weighted   a sweep
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from scripts import cli
from wcx import pipeline
from wcx.report import selected, table1


def run(cfg: DictConfig) -> None:
    """Run the cell, or print its plan."""
    block = cli.masking_job([cfg])
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
    if samples := pipeline.samples(block, shards, cfg.figure):
        title = cli.figure_title(cli.job_name(cfg), len(samples), cfg.threshold)
        print(f"figure: {selected.figure(samples, folder / 'selected.png', title)}")


if __name__ == "__main__":
    cli.main(run)
