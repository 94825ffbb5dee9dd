"""One cell (dataset, model, method, contrast), or a sweep of them with -m.

python run.py                                                  the embedded default: drawn birds, a small network
python run.py dataset=cub method=gradcam contrast=weighted     the paper's cell (vgg16): masking, Table 1
python run.py dataset=imagenet model=alexnet contrast=max      gradient-sign perturbation, Fig. 3
python run.py image=photo.jpg model=resnet18                   one's own photograph (scripts/photo.py)
python run.py experiment=gallery dataset=cub figures=[fig1]    Figs. 1, 4 and 5 (scripts/gallery.py)
python run.py -m dataset=cub,cars contrast=original,weighted   a sweep
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from scripts import cli, gallery, jobs, photo
from wcx import pipeline
from wcx.records import Shard


def run(cfg: DictConfig) -> None:
    """Run the cell, or print its plan."""
    if cfg.experiment in PICTURES:
        PICTURES[cfg.experiment](cfg)
        return
    from wcx.report import recorded

    job = jobs.job([cfg])
    if cfg.plan:
        print(*(f"{key}: {value}" for key, value in pipeline.plan(job).items()), sep="\n")
        return
    [shard], passes = pipeline.run(job, OmegaConf.to_yaml(cfg, resolve=True))
    summary, *more = REPORTS[job.experiment](cfg, job, shard)
    print(summary)
    print(f"passes (images): {dict(passes) or 'none, all records were there'}")
    print(f"records, summary.csv, manifest.json: {shard.path}", *more, *recorded.unchecked([shard]), sep="\n")


def masking(cfg: DictConfig, job: pipeline.MaskingJob, shard: Shard) -> list[str]:
    """Write the cell's part of Table 1 and draw its first selected images; return what to print."""
    from wcx.report import selected, table1

    table = table1.table([shard])
    table.to_csv(shard.path / "summary.csv", index=False, float_format="%.6f")
    samples = pipeline.samples(job, [shard], cfg.figure)
    if not samples:
        return [table1.text(table)]
    title = cli.figure_title(cli.job_name(cfg), len(samples), cfg.threshold)
    return [table1.text(table), f"figure: {selected.figure(samples, shard.path / 'selected.png', title)}"]


def sign_perturbation(_cfg: DictConfig, _job: pipeline.PerturbationJob, shard: Shard) -> list[str]:
    """Write the cell's part of fig3.csv; return what to print."""
    from wcx.report import fig3

    table = fig3.table([shard])
    table.to_csv(shard.path / "summary.csv", index=False, float_format="%.6f")
    shown = ["dataset", "model", "method", "contrast", "epsilon", "iterations", "n"]
    shown += ["delta_logit", "delta_probability", "delta_accuracy", "weights", "subset"]
    return [table[shown].to_string(index=False, float_format="{:.4g}".format)]


PICTURES: dict[str, Callable[[DictConfig], None]] = {"photo": photo.run, "gallery": gallery.run}  # without records
REPORTS: dict[str, Callable[[DictConfig, pipeline.Job, Shard], list[str]]] = {
    "masking": masking,
    "sign_perturbation": sign_perturbation,
}

if __name__ == "__main__":
    cli.main(run, complete=photo.complete)
