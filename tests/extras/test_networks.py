"""Twenty networks by name: the layer found, the grid, and one pass against the sum over classes; what is refused, and why."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import wcx
from tests.extras.networks import CSV, NETWORKS, NORM, REFUSED, Network, compared, image, timm_network
from wcx.errors import WcxError

pytest.importorskip("timm", reason="make test-extras")
pytest.importorskip("transformers", reason="make test-extras")
pytest.importorskip("open_clip", reason="make test-extras")
pytestmark = pytest.mark.usefixtures("one_thread")
TOLERANCE = 1e-9  # relative L2 in float64: rounding alone


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_a_network_by_name(network: Network) -> None:
    """Traps 4 and 5: registers, distillation, images that are no squares; (N, h, w, channels)."""
    net, errors = network.build(), {}
    for method, layer, result, _ in compared(network, net):
        errors[method] = result
        if layer is not None:
            assert layer == ((network.norm or network.layer) if method == NORM else network.layer)
    run = wcx.Explainer(net)(image(network.size))
    assert run.explain(wcx.cotangent(run.logits, 1)).shape == (1, *network.grid)
    refused = {method for method, result in errors.items() if isinstance(result, str)}
    assert refused <= {"deeplift", "lrp"}
    assert max(result for result in errors.values() if isinstance(result, float)) < TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_one_line(name: str) -> None:
    size, reason = REFUSED[name]
    net = timm_network(name, {}).eval()
    for layer in (
        module for module in net.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 10
    ):
        torch.nn.init.normal_(layer.weight)
    with pytest.raises(WcxError, match=reason) as caught:
        wcx.Explainer(net)(image((size, size)).float().expand(2, -1, -1, -1))
    assert "\n" not in str(caught.value)


def test_the_table_in_the_documents_is_of_these_networks() -> None:
    table = pd.read_csv(CSV, dtype=str, keep_default_na=False)
    layers = dict(zip(table["network"], table["layer"], strict=True))
    assert layers == {n.name: " / ".join(filter(None, (n.layer, n.norm))) for n in NETWORKS}
    assert (pd.to_numeric(table["value"][table["column"] != "GradCAM, ms"]).fillna(0) < TOLERANCE).all()
