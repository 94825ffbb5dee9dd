"""Table 1: the masking experiment for datasets x models x methods x contrasts, one table from all records.

python scripts/table1.py datasets=[cub,cars] models=[vgg16] methods=[gradcam] contrasts=[original,weighted] limit=100
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

from omegaconf import OmegaConf

from scripts import cli
from wcx import pipeline
from wcx.errors import WcxError
from wcx.records import Shard
from wcx.report import selected, table1

DEFAULTS = {
    "datasets": ["cub", "fgvc", "food101", "flowers102", "cars"],
    "models": ["vgg16"],
    "methods": ["linear_approximation", "gradcam"],
    "contrasts": ["original", "weighted"],
}


def block(dataset: str, model: str, lists: dict[str, list[str]], overrides: list[str]) -> tuple[pipeline.Job, str]:
    """Return the job of one (dataset, model), and its configuration as text."""
    cells = [(method, contrast) for method in lists["methods"] for contrast in lists["contrasts"]]
    shared = [f"dataset={dataset}", f"model={model}", "experiment=masking"]
    cfgs = [cli.compose([*shared, f"method={m}", f"contrast={c}", *overrides]) for m, c in cells]
    return cli.masking_job(cfgs), OmegaConf.to_yaml(cfgs[0], resolve=True)


def draw(job: pipeline.Job, shards: list[Shard], results: Path, count: int) -> list[str]:
    """Draw the first selected images of a block under every contrast, a figure for each method."""
    lines = []
    for method in dict.fromkeys(cell.method for cell in job.cells):
        path = results / "figures" / f"{job.dataset.name}-{job.loaded.name}-{method}.png"
        if samples := pipeline.samples(job, [shard for shard in shards if shard.key[2] == method], count):
            title = cli.figure_title(
                f"{job.dataset.name} {job.loaded.name} {method}", len(samples), job.settings.threshold
            )
            lines.append(f"figure: {selected.figure(samples, path, title)}")
    return lines


def main() -> None:
    """Run every block; one that fails is reported at the end, and the others finish."""
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS)
    cli.check_overrides([f"{key[:-1]}={','.join(values)}" for key, values in lists.items()] + overrides)
    common = cli.compose([f"dataset={lists['datasets'][0]}", *overrides])  # whose options may be among the overrides
    results = Path(common.paths.results_dir)
    shards: list[Shard] = []
    failures, figures = [], []
    for dataset in lists["datasets"]:
        for model in lists["models"]:
            try:
                job, config = block(dataset, model, lists, overrides)
                if common.plan:
                    print("; ".join(f"{key}: {value}" for key, value in pipeline.plan_masking(job).items()))
                    continue
                made, passes = pipeline.run_masking(job, config)
                print(f"{dataset} {model}: passes (images) {dict(passes) or 'none, all records were there'}")
                shards += made
                figures += draw(job, made, results, common.figure)
            except WcxError as error:
                failures.append(f"failed: {dataset} {model}: {error}")
    if shards:
        print(*table1.write_all(shards, results), f"records: {results / 'records'}", *figures, sep="\n")
    if failures:
        print(*failures, sep="\n", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    cli.guarded(main)
