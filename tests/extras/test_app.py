"""The page of `wcx app` under the real gradio, without a browser: who may ask for what, and what is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

gradio = pytest.importorskip("gradio", reason="make test-extras")
from fastapi.testclient import TestClient  # noqa: E402

from wcx.app import answers, page, server  # noqa: E402
from wcx.app.networks import Network, Networks  # noqa: E402
from wcx.cli import application  # noqa: E402
from wcx.cli.commands import app  # noqa: E402
from wcx.errors import WcxError  # noqa: E402

RANDOM = ["model=small_cnn", "dataset=parts", "model.weights=random", "device=cpu"]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    for key in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(key, "")  # put back afterwards
    with server.folder():
        networks = Networks(app.opened("small_cnn", application.compose(RANDOM, "app"), RANDOM), app.by_name)
        whole = server.application(page.blocks(networks, app.choices()), "127.0.0.1")
        yield TestClient(whole, base_url="http://127.0.0.1")


def test_nothing_outside_of_its_folder_is_served(client: TestClient, root: Path) -> None:
    assert client.get("/").status_code == 200
    for path in ("/etc/passwd", root / "pyproject.toml", "pyproject.toml", "../../etc/passwd", Path(page.__file__)):
        for route in (f"/gradio_api/file={path}", f"/file={path}", f"/static/{path}", f"/assets/{path}"):
            answered = client.get(route)
            assert answered.status_code in (403, 404, 405), f"{route}: {answered.status_code}"
    for route in (
        "/docs",
        "/monitoring",
        "/gradio_api/runs",
        "/gradio_api/proxy=https://example.org/",
    ):
        assert client.get(route, follow_redirects=False).status_code >= 400, route


def test_other_names_of_this_machine_are_refused(client: TestClient) -> None:
    """A page elsewhere whose name was made to point here could ask in a visitor's place."""
    assert client.get("/", headers={"host": "example.org"}).status_code == 400


def test_nothing_in_the_page_is_from_another_host(client: TestClient) -> None:
    """Scripts, styles and fonts; the browser's test sees what is really asked for."""
    theme = client.get("/theme.css").text
    assert "@import" not in theme
    assert not re.findall(r"url\(\s*['\"]?https?:", theme)
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False


def test_an_upload_is_taken_off_the_disk(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"content")
    upload = page.taken(tmp_path / "photo.jpg")
    assert (upload.name, upload.content) == ("photo.jpg", b"content")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_set_when_the_page_has_loaded() -> None:
    """The event may come late: what a visitor has by then, a photograph or an answer, was lost with it."""
    networks = Networks(app.by_name("small_cnn", ["model.weights=random"]), app.by_name)
    events = [event for call in page.blocks(networks, app.choices()).fns.values() for _, event in call.targets]
    assert "upload" in events
    assert "load" not in events


def test_what_the_page_answers_already_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """gradio sends a choice twice, and once more when a list is left as it was; a newer question overtakes an older one."""
    networks = Networks(app.opened("small_cnn", application.compose(RANDOM, "app"), RANDOM), app.by_name)
    calls = {each.fn.__name__: each.fn for each in page.blocks(networks, app.choices()).fns.values()}
    visit, computed, answer = page.Visit(), [], answers.answer
    monkeypatch.setattr(answers, "answer", lambda *asked: computed.append(asked) or answer(*asked))

    def ask(target: str, method: str = answers.METHOD) -> dict[object, object]:
        foils, layer = visit.answer.foils, visit.answer.photograph.layer
        return calls["ask"](visit, "small_cnn", target, foils, method, answers.CONTRAST, layer, 100)

    visit.upload = answers.examples()[0]
    for _ in range(2):
        calls["begin"](visit, "small_cnn", answers.METHOD, answers.CONTRAST)
    first, rival = visit.answer.photograph.pair
    ask(first)
    assert len(computed) == 1
    for _ in range(2):
        ask(rival)
    assert len(computed) == 2
    assert visit.answer.photograph.pair[0] == rival
    ask(rival, "lrp")
    ask(rival, "lrp")
    assert len(computed) == 3

    monkeypatch.setattr(answers, "answer", lambda *asked: ask(first) and answer(*asked))
    overtaken = ask(rival)
    assert visit.answer.photograph.pair[0] == first
    assert len(overtaken) == 1, "nothing is shown"


@pytest.mark.parametrize(
    ("port", "message"), [("8080", "port='8080': give"), (-1, "port=-1: give"), (70000, "port=70000")]
)
def test_a_port_that_is_none_is_one_line(port: object, message: str) -> None:
    with pytest.raises(WcxError, match=message), server.listening("127.0.0.1", port):
        pass


def test_an_address_that_is_taken_is_one_line() -> None:
    with server.listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(WcxError, match=rf"cannot listen on 127.0.0.1:{port}"), server.listening("127.0.0.1", port):
            pass
    with pytest.raises(WcxError, match="cannot listen on 203"), server.listening("203.0.113.1", port):
        pass


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_command_listens_on_this_machine_alone_and_leaves_nothing_behind(sign: int, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "WCX_CHECKPOINTS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "wcx.cli", "app", "model.weights=random", "port=0", "device=cpu"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+ \(Ctrl-C stops it\)\n", line), line + process.stderr.read()
        assert list(tmp_path.glob("wcx-app-*"))
        with urllib.request.urlopen(f"{line.split()[0]}/gradio_api/heartbeat/a_page_that_is_open"):
            process.send_signal(sign)
            _, errors = process.communicate(timeout=600)  # a guard against a hang, on a busy machine too
    assert errors == ""
    assert not [*tmp_path.glob("wcx-app-*"), *tmp_path.glob("gradio*")]
    assert tempfile.gettempdir() != str(tmp_path)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_the_printed_address_and_the_loop_ends_the_server_gracefully(
    sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to interrupt the making of the loop, whose remains then printed a traceback."""
    import uvicorn

    run, ended = uvicorn.Server.run, []

    def signalled(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        signal.raise_signal(sign)
        run(self, sockets)
        ended.append(self.should_exit)

    monkeypatch.setattr(uvicorn.Server, "run", signalled)
    with server.folder(), contextlib.suppress(SystemExit):  # SIGTERM's, which removes the folder
        server.serve(gradio.Blocks(), "127.0.0.1", 0)
    assert ended == [True]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that makes a repository in Hugging Face's cache, as a download leaves it; nothing is downloaded."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="make test-extras")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def snapshot(name: str) -> Path:
        repository, revision = tmp_path / "hub" / f"models--{name.replace('/', '--')}", "0" * 40
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(revision)
        (repository / "snapshots" / revision).mkdir(parents=True)
        return repository / "snapshots" / revision

    return snapshot


def check_weights_and_answer(network: Network, model: nn.Module, side: int) -> None:
    images = torch.rand(1, 3, side, side)
    with torch.no_grad():
        found, expected = network.loaded.model(images), model.eval()((images - 0.5) / 0.5)
    torch.testing.assert_close(found, getattr(expected, "logits", expected))
    answer = answers.answer(network, answers.examples()[0], answers.Asked())
    assert set(answer.photograph.pair) < set(network.classes)
    assert f"model.name={network.name.partition('/')[2]} " in answer.command()


def test_a_network_of_the_hub_is_opened_by_name(hub: Callable[[str], Path]) -> None:
    transformers = pytest.importorskip("transformers", reason="make test-extras")
    labels = ["tench", "crow", "crow's nest"]
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)},
    )  # fmt: skip
    model, folder = transformers.ViTForImageClassification(config), hub("somebody/small-vit")
    nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    network = app.by_name("hf/somebody/small-vit", ["device=cpu"])
    assert network.classes == labels
    check_weights_and_answer(network, model, 32)


def test_a_network_of_timm_is_opened_by_name(hub: Callable[[str], Path]) -> None:
    timm = pytest.importorskip("timm", reason="make test-extras")
    name = "test_vit.r160_in1k"
    model = timm.create_model(name)
    timm.models.save_for_hf(model, hub(f"timm/{name}"), safe_serialization=True)
    network = app.by_name(f"timm/{name}", ["device=cpu"])
    assert len(network.classes) == 1000
    check_weights_and_answer(network, model, 160)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_destructor_swallows_while_the_page_is_made_stops_it(
    sign: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page was then served as if nothing had been said."""
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: pytest.fail("served"))
    with server.folder():
        with contextlib.suppress(KeyboardInterrupt, SystemExit):  # as Python does where nobody can be told
            signal.raise_signal(sign)
        server.serve(gradio.Blocks(), "127.0.0.1", 0)
    assert capsys.readouterr().out == ""


def test_a_pickled_object_is_not_loaded(tmp_path: Path) -> None:
    """A folder of Hugging Face whose weights, opened by pickle, would write a file."""
    transformers = pytest.importorskip("transformers", reason="make test-extras")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    folder, target = tmp_path / "evil", tmp_path / "written"
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (target,))

    torch.save({"weight": Evil()}, folder / "pytorch_model.bin")
    overrides = ["model=hf", f"model.name={folder}", "dataset=imagenet", "device=cpu"]
    with pytest.raises(Exception, match=r"(?s)."):
        app.opened("evil", application.compose(overrides, "app"), overrides)
    assert not target.exists()
