"""The rooms of wcx: each imports only from rooms before it, late imports included; only the command line knows Hydra."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ["paths", "errors", "files", "registry", "images", "contrasts", "methods", "explainer", "bridges"]
STUDY = [
    "datasets",
    "models",
    "training",
    "manifest",
    "inventory",
    "records",
    "statistics",
    "measures",
    "experiments",
    "pipeline",
    "report",
    "leaderboard",
]
ROOMS = [*LIBRARY, *STUDY, "checks", "app", "cli"]
FILES = sorted((ROOT / "wcx").rglob("*.py"))
NOT_OF_THE_LIBRARY = (
    "pandas",
    "PIL",
    "safetensors",
    "scipy",
    "matplotlib",
    "hydra",
    "omegaconf",
    "torchvision",
    "zennit",
)


def room_of(file: Path) -> str:
    return file.relative_to(ROOT / "wcx").parts[0].removesuffix(".py")


@functools.cache
def imports(file: Path) -> list[str]:
    """Every module that a file imports, wherever in it, by its full name; of a package, what is taken from it, too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_module_is_in_a_room() -> None:
    rooms = {room_of(file) for file in FILES} - {"__init__"}
    assert rooms <= set(ROOMS), f"in no room: {rooms - set(ROOMS)}"


def is_allowed(name: str, place: int) -> bool:
    """Whether a file of the room at `place` may import a module."""
    top, _, inner = name.partition(".")
    room = inner.split(".")[0]
    return top not in ("scripts", "tests", "run") and (top != "wcx" or room not in ROOMS or ROOMS.index(room) <= place)


def test_a_room_imports_only_from_rooms_before_it() -> None:
    """And nothing from outside of the package."""
    files = [file for file in FILES if file != ROOT / "wcx" / "__init__.py"]
    places = {file: ROOMS.index(room_of(file)) for file in files}
    assert not [f"{file}: {name}" for file in files for name in imports(file) if not is_allowed(name, places[file])]


def test_only_the_command_line_knows_hydra() -> None:
    known = {file for file in FILES if {name.partition(".")[0] for name in imports(file)} & {"hydra", "omegaconf"}}
    assert {room_of(file) for file in known} == {"cli"}


def test_the_library_loads_nothing_but_torch() -> None:
    """`import wcx; wcx.explain(...)`: no dataset code, no pandas, no Pillow, no safetensors."""
    script = (
        "import sys, torch, wcx\n"
        "from torch import nn\n"
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))\n"
        "before = set(sys.modules)\n"
        "for method in ('gradcam', 'gradient', 'integrated_gradients', 'deeplift'):\n"
        "    wcx.explain(net, torch.rand(1, 3, 32, 32), 0, method=method)\n"
        f"print(*[name for name in {NOT_OF_THE_LIBRARY} if name in sys.modules])\n"
        f"print(*[name for name in sys.modules if name.partition('.')[2].partition('.')[0] in {STUDY} and name[:4] == 'wcx.'])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
