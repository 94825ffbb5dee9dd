"""executor=ray: what one process writes, byte by byte; errors in one line; machines that Ray was started on by hand."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_kill import contents
from wcx import pipeline
from wcx.cli import application, opening
from wcx.errors import WcxError
from wcx.pipeline import Job
from wcx.pipeline.block import OpenedBlock

ray = pytest.importorskip("ray", reason="make test-extras")
SMALL = [
    "dataset=parts",
    "dataset.size=48",
    "model.weights=random",
    "limit=24",
    "threshold=0",
    "chunk_size=4",
    "batch_size=2",
]


def runner(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/table1.py as a user does, where one thread is what a worker has."""
    root = Path(__file__).resolve().parent.parent.parent
    command = [
        sys.executable,
        str(root / "scripts" / "table1.py"),
        "datasets=[parts]",
        "models=[small_cnn]",
        "figure=0",
    ]
    size = [] if "datasets=[folder]" in arguments else ["dataset.size=48"]
    return subprocess.run(
        [*command, *SMALL[2:], *size, *arguments], capture_output=True, text=True, cwd=root, check=False
    )


def without_config(folder: Path) -> dict[str, bytes]:
    """Records and tables; config.yaml says where they were computed."""
    return {name: content for name, content in contents(folder).items() if not name.endswith("config.yaml")}


@pytest.mark.parametrize(
    "arguments",
    [
        ["methods=[gradcam,linear_approximation]", "save_maps=true"],
        ["methods=[gradcam]", "limit=null", "limit_selected=10", "masks=[sign,equal,fraction]"],
    ],
    ids=["maps", "an end within a chunk, three jobs"],
)
def test_the_bytes_of_one_process(tmp_path: Path, arguments: list[str]) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    done = runner(*arguments, "threads=1", f"paths.results_dir={here}")
    assert done.returncode == 0, done.stderr
    done = runner(*arguments, "executor=ray", "workers=2", f"paths.results_dir={there}")
    assert done.returncode == 0, done.stderr
    assert without_config(here) == without_config(there)
    assert "parts small_cnn x2" in done.stderr, "a bar of all workers"
    if "limit_selected=10" in arguments:
        assert len(list(there.rglob("chunk-*.csv"))) == 3 * 2 * 3, "what lies behind the end is thrown away"
    again = runner(*arguments, "executor=ray", "workers=1", f"paths.results_dir={there}")
    assert "none, all records were there" in again.stdout


def test_an_image_that_cannot_be_read_is_a_line_with_its_block(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "data" / "test" / name
        folder.mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((40, 40, 3), 60 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "data" / "test" / "b" / "2.png").write_bytes(b"no picture")
    arguments = ["datasets=[folder]", f"dataset.root={tmp_path / 'data'}", "limit=8", "executor=ray", "workers=1"]
    done = runner(*arguments, f"paths.results_dir={tmp_path / 'results'}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("failed: folder small_cnn: "), done.stderr
    assert "2.png" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_shows_where_it_is_and_the_end_is_one_line(tmp_path: Path) -> None:
    with ray_executor(workers=1) as executor, pytest.raises(ZeroDivisionError) as caught:
        pipeline.run(job(tmp_path, broken), quiet=True, executor=executor)
    assert "in compute" in "".join(caught.value.__notes__)


def test_a_node_with_other_weights_is_refused(tmp_path: Path) -> None:
    with ray_executor(workers=1) as executor, pytest.raises(WcxError, match="has other images, weights or code"):
        pipeline.run(job(tmp_path, reseeded), quiet=True, executor=executor)
    assert not list(tmp_path.rglob("chunk-*.csv"))


def test_a_chunk_that_kills_its_workers_ends_as_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wcx.pipeline.ray._TRIES", 2)
    with (
        ray_executor(workers=1) as executor,
        pytest.raises(WcxError, match="chunk 0: 2 workers died one after the other"),
    ):
        pipeline.run(job(tmp_path, deadly), quiet=True, executor=executor)


def test_no_room_and_no_cluster_are_one_line_each(tmp_path: Path) -> None:
    done = runner("executor=ray", "num_gpus=64", f"paths.results_dir={tmp_path}")
    assert done.returncode == 2
    assert "and a worker needs 1 and 64" in done.stderr
    done = runner("executor=ray", "address=127.0.0.1:1", f"paths.results_dir={tmp_path}")
    assert done.returncode == 2
    assert "error: nothing answers at address=127.0.0.1:1" in done.stderr


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two machines, as docs/runs.md starts them in a SLURM job: a head and another, each by `ray start` in a process."""
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # in a long TMPDIR no socket can be
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of this cluster alone
    program = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    head = ["--head", "--node-ip-address=127.0.0.1", "--port=0", "--include-dashboard=false"]  # any port that is free
    elsewhere = tmp_path / "elsewhere"  # a node's shell is not where the driver's is
    elsewhere.mkdir()
    processes: list[subprocess.Popen] = []

    def started(*where: str) -> str:
        """Return what is printed; on a busy machine Ray may need a second try: it gives its own processes 15 s."""
        for _ in range(3):
            command = [*program, *where]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, cwd=elsewhere, start_new_session=True
            )
            printed = ""
            for line in process.stdout:
                printed += line
                if "--block" in line:
                    processes.append(process)
                    return printed
            process.wait()
        raise AssertionError(printed)

    address = re.search(r"--address='(\S+)'", started(*head))[1]
    started(f"--address={address}")
    yield address
    for process in reversed(processes):
        process.terminate()
        process.wait()


def test_two_machines_that_ray_was_started_on(tmp_path: Path, machines: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert runner("threads=1", f"paths.results_dir={here}").returncode == 0
    done = runner("executor=ray", f"address={machines}", f"paths.results_dir={there}")
    assert done.returncode == 0, done.stderr
    assert "parts small_cnn x2" in done.stderr, "a worker on each"
    assert without_config(here) == without_config(there)
    done = runner("executor=ray", "workers=1", f"paths.results_dir={tmp_path / 'own'}")
    assert done.returncode == 0, f"without an address a cluster of its own, whatever runs here: {done.stderr}"


def ray_executor(**options: int) -> pipeline.Executor:
    from wcx.pipeline.ray import Ray

    return Ray(**options)


def job(folder: Path, opener: Callable[[list], Job]) -> Job:
    """A job that workers open in another way."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not know this file
    cfgs = [application.compose([*SMALL, f"paths.results_dir={folder}"])]
    return replace(opening.job(cfgs), opener=partial(opener, cfgs))


def broken(cfgs: list) -> Job:
    def compute(*_: object) -> None:
        1 // 0  # noqa: B018

    OpenedBlock.compute = compute
    return opening.job(cfgs)


def reseeded(cfgs: list) -> Job:
    cfgs[0].seed = 7
    return opening.job(cfgs)


def deadly(cfgs: list) -> Job:
    os.kill(os.getpid(), signal.SIGKILL)
    return opening.job(cfgs)
