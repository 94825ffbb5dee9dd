"""Check the theory in numbers: oracles, float32's stability, cost, integrated gradients, mean, perturbation; and one figure.

python scripts/verify.py                              everything; what is there already is not measured again
python scripts/verify.py parts=[oracle] networks=[conv_batchnorm,bias_free] methods=[gradcam] contrasts=[weighted,max]
python scripts/verify.py parts=[stability,perturbation] limit=100

Tables (CSV) and figures go to <results>/verify. Photographs are the ImageNet sample's (paths.data_dir), weights as for run.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from anywhere

import torch

from scripts import cli, verify_cells
from wcx import contrasts, methods
from wcx.errors import choose

DEFAULTS = {
    "parts": ["oracle", "stability", "cost", "ig", "mean", "perturbation", "figure"],
    "networks": list(verify_cells.NETWORKS),
    "methods": methods.names(),
    "contrasts": contrasts.names(),
}


def oracle(folder: Path, lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print the oracle table; return whether every measured cell is within its tolerance."""
    from scripts import verify_oracle

    table = verify_oracle.run(folder, lists["networks"], lists["methods"], lists["contrasts"], overrides)
    print(verify_oracle.text(table))
    return not (table.status == "OVER").any()


def stability(folder: Path, _lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print the stability table."""
    from scripts import verify_stability

    table = verify_stability.bins(verify_stability.run(folder, overrides))
    print(table.to_string(index=False, float_format="{:.2g}".format))
    return True


def cost(folder: Path, lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print the cost table."""
    from scripts import verify_cost

    table = verify_cost.run(folder, lists["methods"], overrides)
    print(table.set_index("method").T.to_string(float_format="{:.3g}".format))
    return True


def ig(folder: Path, _lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print both tables of integrated gradients."""
    from scripts import verify_ig

    complete, cosine = verify_ig.run(folder, overrides)
    print(f"abs(residual) / abs(change), median of {complete.image.nunique()} images, by steps")
    print(verify_ig.relative(complete).to_string(float_format="{:.2g}".format))
    print("cosine of weighted and probability, by p_t")
    print(verify_ig.cosine_bins(cosine).to_string(float_format="{:.3f}".format))
    return True


def mean(folder: Path, _lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print how near mean and weighted are to original."""
    from scripts import verify_mean

    print(verify_mean.text(verify_mean.run(folder, overrides)))
    return True


def perturbation(folder: Path, _lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Print how near the perturbation engine is to float64, and where probability leaves weighted's way."""
    from scripts import verify_perturbation

    agreement, ways = verify_perturbation.run(folder, overrides)
    print(verify_perturbation.agreement(agreement).to_string(index=False, float_format="{:.2g}".format))
    print("float32: probability beside weighted, one step, by p_t")
    print(verify_perturbation.ways(ways).to_string(index=False, float_format="{:.3g}".format))
    return True


def figure(folder: Path, _lists: dict[str, list[str]], overrides: Sequence[str]) -> bool:
    """Draw every method under every contrast on one photograph."""
    from scripts import verify_figure

    folder.mkdir(parents=True, exist_ok=True)
    verify_figure.save(verify_figure.picture(overrides), folder / "methods_x_contrasts.png")
    return True


PARTS: dict[str, Callable[[Path, dict[str, list[str]], Sequence[str]], bool]] = {
    "oracle": oracle,
    "stability": stability,
    "cost": cost,
    "ig": ig,
    "mean": mean,
    "perturbation": perturbation,
    "figure": figure,
}


def main() -> None:
    """Run the parts asked for; exit code 1 if an oracle disagrees."""
    lists, overrides = cli.split_lists(sys.argv[1:], DEFAULTS)
    cli.check_overrides(overrides)
    for key, known in (("parts", PARTS), ("networks", DEFAULTS["networks"]), ("contrasts", DEFAULTS["contrasts"])):
        for name in lists[key]:
            choose(key, name, known)
    for name in lists["methods"]:
        choose("method", name, methods.names())
    folder = Path(cli.compose(overrides).paths.results_dir) / "verify"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    agreed = True
    for name in lists["parts"]:
        print(f"\n== {name}")
        agreed &= PARTS[name](folder, lists, overrides)
    print(f"\ntables and figures: {folder}")
    if not agreed:
        sys.exit(1)


if __name__ == "__main__":
    cli.guarded(main)
