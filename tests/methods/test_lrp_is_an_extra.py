"""Without zennit everything but LRP works, and LRP is one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wcx import methods
from wcx.errors import WcxError, import_extra

SCRIPT = """
import sys
sys.modules['zennit'] = None  # as where it is not installed
import torch, wcx
from wcx import methods
layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 3)]
net = torch.nn.Sequential(*layers)
assert 'lrp' in methods.names(transformers=False)
print(*sorted(name for name in methods.of_gradients()))
for name in methods.of_gradients():
    if name != 'lrp':
        layer = '1' if methods.get(name).space == 'activation' else None
        assert wcx.explain(net, torch.rand(1, 3, 8, 8), 0, method=name, layer=layer).isfinite().all()
try:
    wcx.explain(net, torch.rand(1, 3, 8, 8), 0, method='lrp')
except wcx.WcxError as error:
    print(error)
"""
LINE = "method lrp needs zennit: pip install 'wcx[lrp]', or from a checkout -e '.[lrp]'."


def test_without_zennit_all_other_methods_explain_and_lrp_is_one_line(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed, line = done.stdout.splitlines()
    assert {"lrp", "gradcam", "deeplift"} <= set(listed.split())
    assert line == LINE


def test_the_line_is_that_of_creating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zennit.rules", None)
    with pytest.raises(WcxError) as caught:
        methods.create("lrp")
    assert str(caught.value) == LINE


def test_a_library_that_is_there_and_does_not_import_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(tmp_path, "broken_library.py").write_text("import a_module_of_another_version")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        WcxError, match=r"^x needs broken_library: .*\[e\]' \(No module named 'a_module_of_another_version'\)\.$"
    ):
        import_extra("broken_library", "x", "e")
