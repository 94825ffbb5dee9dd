"""Two results folders side by side, image by image: wcx compare a=old b=new.

wcx compare a=results_old b=results
wcx compare a=head b=tail 'quantities=[relative_probability/*]' paths.results_dir=compared

What both hold is compared on the same images (b - a, interval, sign-flip p, Holm); facts that differ are named, and what only one
holds is listed. The tables are <results>/compare.csv, compare.md and, with every fact, tables/compare*_full.csv. Damaged records
are named, the rest is compared, and the exit code is 1.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from wcx.cli import grid, opening


def run(cfg: DictConfig) -> None:
    """Compare, write, and print."""
    from wcx.report import compare  # pandas is slow to import

    refused: list[str] = []
    section = compare.section(Path(cfg.a), Path(cfg.b), opening.plain(cfg.quantities), refused)
    files = section.write(Path(cfg.paths.results_dir))
    print(section.to_text().lstrip("\n"), f"tables: {', '.join(map(str, files))}", sep="\n")
    grid.fail({}, refused)
