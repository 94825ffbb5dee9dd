"""Blocks over devices: one process each, the failures told at the end, the others finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wcx.cli import spread
from wcx.cli.spread import Block
from wcx.errors import WcxError

SCRIPT = """
import os, sys, time
folder, name = sys.argv[1:]
with open(os.path.join(folder, name), "w") as file:
    file.write(os.environ["CUDA_VISIBLE_DEVICES"])
deadline = time.monotonic() + 10
while name in "ab" and len(set(os.listdir(folder)) & {"a", "b"}) < 2:  # only if two run at once
    assert time.monotonic() < deadline
    time.sleep(0.01)
for i in range(3):
    print(f"{name}: {33 * i}%|###   | {i}/3", end="\\r", file=sys.stderr)
print("done", name)
if name == "wrong":
    sys.exit("error: dataset wrong: not there")
if name == "bug":
    raise ValueError("two\\nlines")
if name == "killed":
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def block(tmp_path: Path) -> Callable[[str], Block]:
    """A block that writes which device it saw; a and b wait for each other."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "seen").mkdir()
    return lambda name: Block((name,), [str(script), str(tmp_path / "seen"), name])


def test_one_process_a_device_at_a_time(
    tmp_path: Path, block: Callable[[str], Block], capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["a", "wrong", "b", "bug", "killed", "c"]
    failed = spread.over([block(name) for name in names], ["0", "GPU-f00"])
    assert failed == {"wrong": "dataset wrong: not there", "bug": "lines", "killed": "killed by SIGKILL"}
    seen = {name: (tmp_path / "seen" / name).read_text() for name in names}
    assert set(seen.values()) == {"0", "GPU-f00"}
    assert seen["a"] != seen["b"], "they ran at once"
    out, err = capfd.readouterr()
    assert "[c] done c" in out.splitlines()
    assert "[bug] ValueError: two" in err.splitlines()
    assert "%|" not in err, "bars that last less than 20 s are not shown"


def test_with_one_device_all_is_done_here_and_the_others_finish(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def work(block: Block) -> None:
        if block.name == "wrong":
            raise WcxError("not\nthere")
        if block.name == "bug":
            raise ValueError("what")
        done.append(block.name)

    blocks = [Block((name,), ["nowhere"]) for name in ("a", "wrong", "bug", "b")]
    assert spread.run(blocks, work, ["0"]) == {"wrong": "not there", "bug": "ValueError: what"}
    assert done == ["a", "b"]
    assert "Traceback" in capsys.readouterr().err, "a bug shows where it is"


def test_after_the_processes_what_they_finished_is_collected_here(block: Callable[[str], Block]) -> None:
    done = []
    failed = spread.run([block(n) for n in ("a", "wrong", "b")], lambda one: done.append(one.name), ["0", "1"])
    assert list(failed) == ["wrong"]
    assert done == ["a", "b"]


@pytest.mark.parametrize(
    ("asked", "visible", "present", "expected"),
    [
        ("auto", None, 3, ["0", "1", "2"]),
        ("cuda", "2,GPU-f00", 2, ["2", "GPU-f00"]),
        ("auto", None, 0, []),
        ("auto", "", 0, []),
        ("cuda:1", None, 3, []),
        ("cpu", None, 3, []),
    ],
)
def test_devices(
    monkeypatch: pytest.MonkeyPatch, asked: str, visible: str | None, present: int, expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: present)
    assert spread.devices(asked) == expected


def test_the_processes_end_with_the_runner(tmp_path: Path, root: Path) -> None:
    child = "import os, sys, time; open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(60)"
    runner = f"""
    import sys
    sys.path.insert(0, {str(root)!r})
    from wcx.cli import spread
    spread.over([spread.Block((n,), ["-c", {child!r}, {str(tmp_path)!r}]) for n in "abc"], ["0", "1"])
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(runner)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while len(pids := [int(file.name) for file in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(list(tmp_path.iterdir())) == 2, "the third never began"
