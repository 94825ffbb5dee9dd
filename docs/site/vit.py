"""Make docs/tables/table1_vit_s14.csv, and its numbers in figures.csv, from a results folder: then `wcx report docs=true`.

python docs/site/vit.py results        # rows of methods that it does not hold stay
python docs/site/vit.py results own    # made with dataset.transform=own: the numbers alone
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pandas as pd

from wcx import records

sys.path.insert(0, str(Path(__file__).parent))
from twins import put, write

CONTRASTS = ("original", "mean", "max", "weighted")
LINE = ["mask", "method", "target", "features_kept"]
COMMAND = (
    "python scripts/table1.py datasets=[cub] models=[vit_s14_cub22] methods=[{}] "
    "contrasts=[{}] masks=[{}] evaluation_precision=bfloat16{}"
)
SETTING = (
    "the {}{} of CUB-22's test images with p_t2 > 0.1, layer encoder.layers.encoder_layer_11.ln_1, "
    "self-supervised ViT-S/14, linear head"
)


def numbers(table: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield (column, part, value) of a line."""
    cell = table.set_index(["baseline", "contrast"])
    for baseline, contrast in product(("blur", "zeros", "mean"), CONTRASTS):
        yield (
            f"{baseline}: {' / '.join(CONTRASTS)}",
            contrast,
            f"{cell.loc[(baseline, contrast), 'relative_probability']:.3f}",
        )
    for contrast, end in product(("original", "weighted"), ("low", "high")):
        yield f"blur, {contrast}, 95 %", end, f"{cell.loc[('blur', contrast), f'ci_{end}']:.2f}"


def lines(table: pd.DataFrame, n: int) -> Iterator[dict[str, object]]:
    """Yield the numbers with their labels."""
    for values in product(("sign", "equal"), sorted(set(table["method"])), ("t_1", "t_2"), ("positive", "negative")):
        mask, method, target, kept = values
        label = {"mask": mask, "n": n, "method": method, "target": target, "kept": kept}
        for column, part, value in numbers(table[(table[LINE] == list(values)).all(axis=1)]):
            yield label | {"column": column, "part": part, "value": value}


def main() -> None:
    """Write the table and the numbers of sentences."""
    folder, is_own = Path(sys.argv[1]), sys.argv[2:] == ["own"]
    table, pairs = (pd.read_csv(folder / f"{name}.csv") for name in ("table1", "table1_paired"))
    n = int(table["n"].max())
    methods = list(dict.fromkeys(table["method"]))
    is_whole = "limit_selected" not in table["subset"].iloc[0]
    ends = ["" if is_whole else f" limit_selected={n}", " dataset.transform=own" if is_own else ""]
    chosen = (",".join(dict.fromkeys(table[column])) for column in ("method", "contrast", "mask"))
    stated = {
        "setting": SETTING.format("" if is_whole else "first drawn ", n) + (", its own transform" if is_own else ""),
        "command": COMMAND.format(*chosen, "".join(ends)),
    }
    if not is_own:
        write("table1_vit_s14", [line | stated for line in lines(table, n)], ["mask", "method"])
    begin = "vit_own" if is_own else "vit" if "gradcam" in methods else f"vit_{'_'.join(methods)}"
    made: dict[str, object] = {f"{begin}_n": n, f"{begin}_pairs": len(pairs[pairs["mask"] == "sign"])}
    for mask, cells in pairs.groupby("mask"):
        ahead, sure = cells["better"] == "weighted", cells["p_holm"] < 0.05
        made |= {
            f"{begin}_{mask}_ahead": int(ahead.sum()),
            f"{begin}_{mask}_sure": int((ahead & sure).sum()),
            f"{begin}_{mask}_behind": int((~ahead & sure).sum()),
        }
    rows_of_images = records.find(folder)[0].read()
    made |= {f"{begin}_accuracy": f"{(rows_of_images['t_1'] == rows_of_images['label']).mean():.3f}"}
    made |= {f"{begin}_images": len(rows_of_images)}
    put(made, None, n, f"Table 1, vit_s14_cub22, {stated['setting']}", stated["command"])
    print(made)


if __name__ == "__main__":
    main()
