"""One cell (dataset, model, method, contrast), or a sweep of them with -m.

wcx run                                              the embedded default: drawn birds, a small network
wcx dataset=cub method=gradcam contrast=weighted     the paper's cell (vgg16): masking, Table 1
wcx dataset=imagenet model=alexnet contrast=max      gradient-sign perturbation, Fig. 3
wcx image=photo.jpg model=resnet18                   one's own photograph
wcx experiment=gallery dataset=cub figures=[fig1]    Figs. 1, 4 and 5
wcx -m dataset=cub,cars contrast=original,weighted   a sweep

`wcx key=value ...` is the same.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from wcx import pipeline
from wcx.cli import application, blocks, opening
from wcx.cli.commands import gallery, photo
from wcx.files import write


def run(cfg: DictConfig) -> None:
    """Run the cell, or print its plan."""
    if cfg.experiment in PICTURES:
        PICTURES[cfg.experiment](cfg)
        return
    job = opening.job([cfg])
    with blocks.executor(cfg) as executor:
        if cfg.plan:
            print(*(f"{key}: {value}" for key, value in pipeline.plan(job, executor=executor).items()), sep="\n")
            return
        [shard], passes = pipeline.run(job, OmegaConf.to_yaml(cfg, resolve=True), executor=executor)

    from wcx.report import sections  # pandas and matplotlib are slow to import
    from wcx.report.pictures import selected

    section = sections.of(cfg.experiment, [shard])
    for table in section.tables[:1]:
        write(shard.path / "summary.csv", table.to_csv(table.header, "%.6f"))
    print(section.to_text().lstrip("\n"))
    print(f"passes (images): {dict(passes) or 'none, all records were there'}")
    print(f"records, summary.csv, manifest.json: {shard.path}")
    if shown := selected.selected(job, [shard], cfg.figure):
        title = selected.title_of(application.job_name(cfg), len(shown), job.settings.threshold)
        files = opening.plain(cfg.formats), cfg.style
        print("figure:", *selected.write_selected(shown, shard.path / "selected", title, shard.labels, *files))


PICTURES: dict[str, Callable[[DictConfig], None]] = {"photo": photo.run, "gallery": gallery.run_cell}  # without records
complete = photo.complete
