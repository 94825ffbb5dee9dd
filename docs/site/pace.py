"""Make docs/tables/pace.csv: an explanation's CPU seconds, over those of another tree of this repository, in turns.

python docs/site/pace.py OTHER_TREE ROUNDS [NETWORK ...]    # then `wcx report docs=true`; a method that refuses leaves a gap
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from twins import write

HERE = Path(__file__).resolve().parents[2]
NETWORKS = ("alexnet", "squeezenet1_1", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "mnasnet1_0", "googlenet")
NETWORKS += ("densenet121", "efficientnet_b0")
METHODS = ("gradcam", "linear_approximation", "gradient", "deeplift", "lrp")
WARM = 2  # rounds before those that count
# Memory stays with the process: how often its heap is given back to the system would weigh more than what differs.
WORKER = """
import ctypes, gc, sys, time
import torch, torchvision, wcx
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)
ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, -1)
torch.set_num_threads(1)
torch.manual_seed(0)
pixels = torch.randn(4, 3, 224, 224)
for line in sys.stdin:
    name, method = line.split()
    if method == "load":
        options = {"init_weights": False} if name == "googlenet" else {}
        network = getattr(torchvision.models, name)(num_classes=100, **options).eval()
    gc.collect()
    begun, refused = time.process_time(), 0
    try:
        if method != "load":
            wcx.explain(network, pixels, 3, method, "weighted")
    except wcx.WcxError:
        refused = 1
    print(0 if refused else time.process_time() - begun, flush=True)
"""


def opened(tree: Path) -> subprocess.Popen[str]:
    """Return a process that explains by the code of a tree."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", WORKER]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tree,
        env=environment,
    )


def seconds(process: subprocess.Popen[str], network: str, method: str) -> float:
    """Return the CPU seconds of an explanation; 0 of a method that refuses the network."""
    assert process.stdin, "a pipe"
    assert process.stdout, "a pipe"
    process.stdin.write(f"{network} {method}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def ratios(before: subprocess.Popen[str], now: subprocess.Popen[str], network: str, method: str, n: int) -> list[float]:
    """Return now / before of n rounds, who goes first in turns; none where either refuses."""
    found = []
    for turn in range(WARM + n):
        order = (before, now) if turn % 2 else (now, before)
        took = {process.pid: seconds(process, network, method) for process in order}
        if not all(took.values()):
            return []
        found.append(took[now.pid] / took[before.pid])
    return found[WARM:]


def measured(tree: Path, n: int, networks: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield the median ratios, a network at a time."""
    commit = subprocess.check_output(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"], text=True).strip()
    setting = (
        f"torchvision, random weights, 4 images of 224, 100 classes, one thread, median of {n} rounds; before: {commit}"
    )
    before, now = map(opened, (tree, HERE))
    for network in networks:
        for process in (before, now):
            seconds(process, network, "load")
        for method in METHODS:
            if found := ratios(before, now, network, method, n):
                line = {"network": network, "column": method, "part": "", "value": f"{median(found):.2f}"}
                yield line | {"setting": setting, "command": f"python docs/site/pace.py OTHER_TREE {n}"}
                print(network, method, f"{median(found):.3f}", flush=True)


if __name__ == "__main__":
    write("pace", measured(Path(sys.argv[1]).resolve(), int(sys.argv[2]), sys.argv[3:] or NETWORKS), ["network"])
