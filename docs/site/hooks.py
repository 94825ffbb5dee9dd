"""Hooks of mkdocs: pictures are made while the site is built, and llms.txt is written beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "build" / "docs"  # records and a checkpoint: a second build is quick
PICTURES = {  # in the site: in the results
    "demo.png": "figures/parts-small_cnn-gradcam.png",
    "fig1.png": "gallery/parts-small_cnn-fig1.png",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Draw what the pages show, on drawn birds."""
    for arguments in (["demo"], ["gallery", "datasets=[parts]", "models=[small_cnn]", "figures=[fig1]", "count=2"]):
        places = [f"paths.results_dir={RESULTS}", f"paths.checkpoints_dir={RESULTS / 'checkpoints'}"]
        subprocess.run(
            [sys.executable, "-m", "wcx.cli", *arguments, *places], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
    for name, drawn in PICTURES.items():
        files.append(File.generated(config, f"images/built/{name}", abs_src_path=str(RESULTS / drawn)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Name files of the repository that are no pages, instead of linking to them."""
    return markdown.replace("](../tests/test_theory.py)", "]")


def on_post_build(config: MkDocsConfig) -> None:
    """Write llms.txt: what there is, a line a page, with the pages' own first words."""
    lines = ["# wcx", "", f"> {config.site_description}", "", "## Pages", ""]
    for page in sorted(Path(config.docs_dir).rglob("*.md")):
        title, *body = page.read_text(encoding="utf-8").strip().splitlines()
        prose = " ".join(line for line in body if line[:1].isalpha())
        lines.append(
            f"- [{title.lstrip('# ')}]({page.relative_to(config.docs_dir).as_posix()}): {prose.split('. ')[0][:200]}"
        )
    (Path(config.site_dir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
