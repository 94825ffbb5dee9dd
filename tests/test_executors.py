"""What a runner says of where it computes, without Ray; with it: tests/extras."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from wcx.cli import application, blocks, opening
from wcx.cli.blocks import Block
from wcx.errors import WcxError
from wcx.pipeline import Local, cluster

SMALL = [
    "models=[small_cnn]", "dataset.size=48", "dataset.transform.size=48", "model.weights=random", "limit=2", "threshold=0",
    "figure=0",
]  # fmt: skip


@pytest.fixture
def runner(cli: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    return lambda *arguments: cli("table1", "datasets=[parts]", *SMALL, f"paths.results_dir={tmp_path}", *arguments)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["executor=ray"], "executor=ray needs ray: pip install 'wcx[ray]', or from a checkout -e '.[ray]'."),
        (["executor=rey"], "unknown executor 'rey'. Did you mean 'ray'? Choose one of: local, ray."),
        (["workers=2"], "workers=2 is a setting of Ray; add executor=ray, or leave it out."),
        (["executor=ray", "workers=0"], "workers = 0: give a whole number of at least 1, or null."),
        (["executor=ray", "num_gpus=-1"], "num_gpus = -1: give a number, or null."),
    ],
)
def test_mistakes_are_one_line(runner, arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    done = runner(*arguments)
    assert (done.returncode, done.stderr.splitlines()) == (2, [f"error: {line}"])


def test_several_gpus_without_ray_are_a_line_that_names_the_extra(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    done = runner()
    assert done.returncode == 0
    assert "2 GPUs are visible and one is used: executor=ray uses all (pip install 'wcx[ray]')" in done.stdout
    done = runner("device=cpu")
    assert done.returncode == 0
    assert "GPUs" not in done.stdout


def test_threads_are_those_of_this_process(runner, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert runner("threads=3").returncode == 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert "cpu, 3 threads" in next(tmp_path.rglob("manifest.json")).read_text()


def test_rays_sockets_have_paths_that_are_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long TMPDIR, as clusters have it for each job, was a traceback: "AF_UNIX path length cannot exceed 107 bytes"."""
    calls: list[str] = []
    monkeypatch.setattr(
        cluster, "import_extra", lambda *_: SimpleNamespace(init=lambda where, **_: calls.append(where))
    )
    for name in ("RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", 40 * "x")
    with pytest.raises(
        WcxError, match=f"cannot start in {40 * 'x'}: .*give RAY_TMPDIR=<a folder of at most 35 letters>"
    ):
        cluster.connected(None)
    assert calls == []
    monkeypatch.setenv("RAY_TMPDIR", "short")
    cluster.connected(None)
    assert calls == ["local"]


def test_ray_is_tried_again_where_the_machine_was_too_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a traceback: Ray gives its own processes 15 s, whatever else runs."""
    calls: list[int] = []

    def init(_: str, **__: Any) -> None:
        calls.append(1)
        if len(calls) != 3:
            raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr(cluster, "import_extra", lambda *_: SimpleNamespace(init=init))
    monkeypatch.setenv("RAY_TMPDIR", "short")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    cluster.connected(None)
    assert len(calls) == 3
    with pytest.raises(WcxError, match=r"^Ray does not start here: The current node timed out during startup\.$"):
        cluster.connected(None)
    assert len(calls) == 6


def test_a_block_that_fails_is_told_and_the_others_finish(capsys: pytest.CaptureFixture[str]) -> None:
    def jobs(block: Block) -> list:
        raise WcxError("not\nthere") if block.name == "wrong" else ValueError("what")

    failed = blocks.run([Block(("wrong",)), Block(("bug",))], jobs, Local(), lambda *_: None)
    assert failed == {"wrong": "not there", "bug": "ValueError: what"}
    assert "Traceback" in capsys.readouterr().err, "a bug shows where it is"


@pytest.mark.parametrize(
    ("model", "reason"), [("small_cnn", ""), ("squeezenet1_1", "no BatchNorm follows a convolution")]
)
def test_what_evaluation_passes_go_through_is_the_same_fact_with_ray(model: str, reason: str) -> None:
    """Of a network with BatchNorm and of one without; what a worker opens is settled, and needs no second look."""
    settings = ["dataset=parts", f"model={model}", "model.weights=random", "dataset.size=48", "limit=2"]
    local, ray = (opening.job([application.compose([*settings, f"executor={name}"])]) for name in ("local", "ray"))
    assert local.evaluator.reason == reason
    assert (ray.evaluator.kind, ray.evaluator.reason) == (local.evaluator.kind, local.evaluator.reason)
    assert ray.opener is not None
    worker = ray.opener()
    assert worker.evaluation == local.evaluator.kind
    assert [shard.path for shard in worker.shards()] == [shard.path for shard in local.shards()]
