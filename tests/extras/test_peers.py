"""`wcx bench parts=[peers]` where the other libraries are installed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from wcx import pipeline
from wcx.checks import libraries, peers
from wcx.checks.bench import BenchRequest
from wcx.checks.peers import Peers
from wcx.cli.commands.bench import open_job
from wcx.cli.grid import Grid
from wcx.errors import WcxError

pytestmark = pytest.mark.skipif(bool(libraries.missing()), reason="make test-extras")


def rounds(folder: Path, network: str, repeats: int = 2, methods: Sequence[str] = ()) -> list:
    lists = {"methods": ["gradcam"], "contrasts": ["weighted"]}
    typed = ["experiment=masking", "dataset.size=64", "model.weights=random", f"paths.results_dir={folder}"]
    opener = partial(open_job, Grid("bench", lists, typed), ("parts", network))
    return list(Peers.jobs(BenchRequest(opener, ["peers"], images=2, repeats=repeats, methods=methods)))


@pytest.mark.parametrize("network", ["small_cnn", "squeezenet1_1"])
def test_maps_of_all_libraries_are_ours_and_every_call_is_timed(tmp_path: Path, network: str) -> None:
    """The comparison is Peers' own: it raises where maps differ; here it is seen to have been made for each cell."""
    shards = [shard for job in rounds(tmp_path, network) for shard in pipeline.run(job, quiet=True)[0]]
    (table,) = Peers.summaries(shards)
    frame = table.frame.set_index(["method", "explanations", "library"])
    assert (frame.seconds > 0).all()
    alike = frame[frame.unlike.isna() | frame.unlike.eq("")]
    assert (alike.difference <= peers.TOLERANCE).all()
    unlike = set(frame.index) - set(alike.index)
    libraries_of_lrp = set(frame.loc["lrp"].index)
    if network == "small_cnn":  # BatchNorm behind a max pool; no two pools overlap
        assert not unlike
        assert libraries_of_lrp == {(1, "wcx"), (8, "wcx")}
    else:
        assert unlike == {("deeplift", 1, "captum"), ("deeplift", 8, "captum")}
        assert libraries_of_lrp == {(1, "wcx"), (1, "captum"), (1, "zennit"), (8, "wcx"), (8, "zennit")}
    assert {library for _, _, library in frame.index} == set(libraries.LIBRARIES)


def test_methods_that_are_named_are_compared_alone(tmp_path: Path) -> None:
    jobs = rounds(tmp_path, "small_cnn", methods=["gradcam"])
    assert [{cell.method for cell in job.cells} for job in jobs] == [{"gradcam"}] * 2


def test_network_that_is_timed_has_no_hooks(tmp_path: Path) -> None:
    """Ours looks at a network with hooks anew each time."""
    (job, _) = rounds(tmp_path, "squeezenet1_1")
    modules = list(job.opened(job.cells).task.net.modules())
    assert any(isinstance(module, torch.nn.MaxPool2d) for module in modules)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)


def test_rounds_of_eight_are_a_third(tmp_path: Path) -> None:
    assert [len(job.chunks()) for job in rounds(tmp_path, "small_cnn", repeats=7)] == [7, 3]


def test_eight_explanations_are_two_targets_under_four_contrasts(tmp_path: Path) -> None:
    """By hand for one image: targets outermost within each contrast."""
    (_, job) = rounds(tmp_path, "small_cnn")
    task = job.opened(job.cells).task
    v = task.cotangents(torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 9.0]]))
    assert v.shape == (8, 2, 3)
    assert v[0, 0].tolist() == [0, 1, 0]
    assert v[1, 0].tolist() == [0, 0, 1]
    assert v[4:6, 0].tolist() == [[0, 1, -1], [0, -1, 1]]  # max: against the most probable other class


def test_maps_that_differ_stop_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = libraries.LIBRARIES["torchcam"]
    monkeypatch.setitem(libraries.LIBRARIES, "torchcam", lambda task, method: 1.001 * true(task, method))
    with pytest.raises(WcxError, match=r"gradcam of torchcam differs from ours by 1\.0e-03"):
        pipeline.run(rounds(tmp_path, "small_cnn")[0], quiet=True)


def test_ratio_is_the_median_of_the_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of medians: what a busy machine does to a round it does to both."""
    clock = {"wcx": iter([1.0, 8.0]), "captum": iter([2.0, 24.0])}

    def seconds(call: partial) -> float:
        name = next(name for name, ask in libraries.LIBRARIES.items() if ask is call.func)
        return next(clock[name]) if call.args[1] == "deeplift" and name in clock else 1.0

    monkeypatch.setattr(peers, "seconds", seconds)
    shards, _ = pipeline.run(rounds(tmp_path, "small_cnn")[0], quiet=True)
    frame: pd.DataFrame = Peers.summaries(shards)[0].frame
    line = frame[(frame.method == "deeplift") & (frame.library == "captum")].iloc[0]
    assert line["/ wcx"] == (2 / 1 + 24 / 8) / 2
    assert line.seconds == 13
