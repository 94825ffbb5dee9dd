"""Kind E: state restored before, or not around, the backward pass. Inference tensors, checkpoints, threads, contexts, touches."""

from __future__ import annotations

import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils import checkpoint as checkpoints
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import wcx
from tests import nets
from tests.methods import brute_force
from tests.methods.brute_force import ACTIVATION, METHODS, error
from wcx.errors import WcxError
from wcx.models import Normalized

pytestmark = pytest.mark.usefixtures("one_thread")

Wrap = Callable[[nn.Module], nn.Module]
STEPS = 5


class Net(nn.Module):
    """A stem, a body (which may be checkpointed) and a head; in float64."""

    def __init__(self, through: Callable[[nn.Module, Tensor], Tensor] | None = None, wrap: Wrap = lambda m: m) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = wrap(nn.Conv2d(3, 6, 3, padding=1))
            norm = nn.BatchNorm2d(8)
            self.body = nn.Sequential(
                wrap(nn.Conv2d(6, 8, 3, padding=1)), norm, nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)
            )
            self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        self.through = through or (lambda body, x: body(x))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.through(self.body, self.stem(x)))


def photos(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def options(method: str) -> dict[str, int]:
    return {"steps": STEPS} if method == "integrated_gradients" else {}


def explained(model: nn.Module, method: str, images: Tensor | None = None, layer: str | None = None) -> Tensor:
    """Return the map of class 1 against the others."""
    images = photos() if images is None else images
    return wcx.explain(
        model, images, 1, method, layer=layer if method in ACTIVATION else None, **options(method)
    ).detach()


@pytest.fixture(scope="module")
def right() -> dict[str, Tensor]:
    """What every method gives for `Net`: by plain autograd, DeepLIFT and LRP by themselves, undisturbed."""
    model, images = Net(), photos()
    v = wcx.cotangent(model(images).detach(), 1)
    slope = brute_force.gradient(model, images, v)
    by_hand = {
        "gradient": slope,
        "input_x_gradient": images * slope,
        "integrated_gradients": brute_force.integrated(model, images, v, torch.zeros_like(images), STEPS),
        **brute_force.cams(lambda x: model.body(model.stem(x)), model.head, images, v),
    }
    return {method: by_hand[method] if method in by_hand else explained(model, method) for method in METHODS}


def facts(model: nn.Module) -> list[object]:
    """Return all of a model that could be left behind: flags, modes, gradients, versions, hooks, every byte."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    attributes = [
        (key, id(value)) for m in model.modules() for key, value in vars(m).items() if isinstance(value, Tensor)
    ]
    hooks = [(key, list(value)) for m in model.modules() for key, value in vars(m).items() if "hooks" in key and value]
    return [
        [(name, id(t), t.requires_grad, t.grad, t.data_ptr()) for name, t in tensors.items()],
        [(name, t.detach().reshape(-1).contiguous().view(torch.uint8).tolist()) for name, t in tensors.items()],
        [module.training for module in model.modules()],
        attributes,
        hooks,
    ]


# --- E.1 inference tensors --------------------------------------------------------------------------------------------------


def built() -> nn.Module:
    with torch.inference_mode():
        return Net()


def loaded() -> nn.Module:
    model = Net()
    with torch.inference_mode():
        model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    return model


def with_one_buffer() -> nn.Module:
    model = Net()
    with torch.inference_mode():
        model.body[1].running_mean = torch.zeros(8, dtype=torch.float64)
    return model


def cast() -> nn.Module:
    with torch.inference_mode():
        return Net().double().float().double()


@pytest.mark.parametrize("make", [built, loaded, with_one_buffer, cast])
@pytest.mark.parametrize("method", METHODS)
def test_inference_tensors_are_seen_before_anything_is_touched(method: str, make: Callable[[], nn.Module]) -> None:
    model = make().train()
    before = facts(model)
    for context in (nullcontext, torch.inference_mode, torch.no_grad):
        with (
            context(),
            pytest.raises(WcxError, match=r"under torch\.inference_mode.*copy\.deepcopy\(model\)") as caught,
        ):
            explained(model, method)
        assert "\n" not in str(caught.value)
        assert facts(model) == before


@pytest.mark.parametrize("make", [built, loaded, with_one_buffer, cast])
def test_the_way_out_of_inference_mode_works(make: Callable[[], nn.Module], right: dict[str, Tensor]) -> None:
    model = copy.deepcopy(make())
    for method in METHODS:
        maps = explained(model, method)
        if make is not with_one_buffer:
            assert error(maps, right[method]) < 1e-10, method


def test_a_tensor_kept_from_a_pass_in_inference_mode_is_no_hindrance() -> None:
    """A grid or a position code that is made in the first pass and kept as an attribute."""

    class Keeping(Net):
        grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.grid is None:
                self.grid = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)
            return super().forward(x * self.grid)

    fresh, kept = Keeping(), Keeping()
    with torch.inference_mode():
        kept(photos())
    grid = kept.grid
    for method in METHODS:
        assert error(explained(kept, method), explained(fresh, method)) < 1e-12
        assert kept.grid is grid


@pytest.mark.parametrize("method", METHODS)
def test_lazy_layers_are_one_line(method: str) -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(WcxError, match="lazy layers"):
        wcx.explain(model, photos().float(), 1, method)
    model(photos().float())
    assert wcx.explain(model, photos().float(), 1, method).isfinite().all()


# --- E.2 gradient checkpointing ---------------------------------------------------------------------------------------------


def selective() -> tuple[AbstractContextManager, AbstractContextManager]:
    policy = checkpoints.CheckpointPolicy.PREFER_RECOMPUTE
    return checkpoints.create_selective_checkpoint_contexts(lambda *_args, **_kwargs: policy)


def nested(body: nn.Module, x: Tensor) -> Tensor:
    inner = lambda t: checkpoint(body[1:], t, use_reentrant=False)  # noqa: E731
    return checkpoint(lambda t: inner(body[0](t)), x, use_reentrant=True)


CHECKPOINTS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "reentrant": lambda body, x: checkpoint(body, x, use_reentrant=True),
    "not reentrant": lambda body, x: checkpoint(body, x, use_reentrant=False),
    "by its module": lambda body, x: checkpoints.checkpoint(body, x, use_reentrant=False, preserve_rng_state=False),
    "by a keyword": lambda body, x: checkpoint(lambda *, x: body(x), x=x, use_reentrant=False),
    "sequential": lambda body, x: checkpoint_sequential(body, 2, x, use_reentrant=False),
    "sequential, reentrant": lambda body, x: checkpoint_sequential(body, 3, x, use_reentrant=True),
    "selective": lambda body, x: checkpoint(body, x, use_reentrant=False, context_fn=selective),
    "debug": lambda body, x: checkpoint(body, x, use_reentrant=False, debug=True),
    "nested": nested,
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("layer", [None, "stem", "body.0", "body.3"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpointing_changes_neither_maps_nor_the_model(
    kind: str, layer: str | None, mode: str, right: dict[str, Tensor]
) -> None:
    """A layer before, inside and at the end of the region; BatchNorm in train mode."""
    model = Net(CHECKPOINTS[kind])
    getattr(model, mode)()
    for method in METHODS if layer is None else ACTIVATION:
        expected = right[method] if layer in (None, "body.3") else explained(Net(), method, layer=layer)
        before = facts(model)
        assert error(explained(model, method, layer=layer), expected) < 1e-10, method
        assert facts(model) == before, method


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_modules_that_are_wrapped_for_checkpointing(mode: str, right: dict[str, Tensor]) -> None:
    model = Net()
    model.body = checkpoint_wrapper(model.body)
    getattr(model, mode)()
    for method in METHODS:
        before = facts(model)
        assert error(explained(model, method), right[method]) < 1e-10, method
        assert facts(model) == before


def test_checkpointing_works_as_before_afterwards_and_beside() -> None:
    """Recomputed in training, as it should be: also in another thread while one explains."""
    calls: list[str] = []

    def through(body: nn.Module, x: Tensor) -> Tensor:
        def counted(t: Tensor) -> Tensor:
            calls.append(threading.current_thread().name)
            return body(t)

        return checkpoint(counted, x, use_reentrant=bool(len(calls) % 2))

    parts = (checkpoints.CheckpointFunction, checkpoints._checkpoint_hook)
    before = [dict(vars(part)) for part in parts]
    model, trained = Net(through), Net(through)
    explained(model, "gradient")
    assert len(calls) == 1
    assert [dict(vars(part)) for part in parts] == before
    for _ in range(2):
        calls.clear()
        trained(photos().requires_grad_()).sum().backward()
        assert len(calls) == 2

    inside, done = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        assert done.wait(30)

    handle = model.stem.register_forward_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        maps = pool.submit(explained, model, "gradient")
        assert inside.wait(30)
        calls.clear()
        trained(photos().requires_grad_()).sum().backward()
        trained_calls = len(calls)
        done.set()
        maps.result()
    handle.remove()
    assert trained_calls == 2
    assert len(calls) == 3
    assert [dict(vars(part)) for part in parts] == before


class Reentrant(torch.autograd.Function):
    """Checkpointing of another library's own: allows `backward()` alone."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        raise RuntimeError("Checkpointing is not compatible with .grad(), please use .backward() if possible")


@pytest.mark.parametrize("method", [m for m in METHODS if m != "lrp"])
def test_other_checkpointing_that_allows_no_gradients_is_one_line(method: str) -> None:
    model = Net(lambda body, x: Reentrant.apply(body(x)))
    before = facts(model)
    with pytest.raises(WcxError, match=r"gradient checkpointing.*switch it off"):
        explained(model, method, layer="stem")
    assert facts(model) == before


class Recomputing(torch.autograd.Function):
    """Checkpointing by hand: the body runs again in the backward pass, as the model is then."""

    @staticmethod
    def forward(ctx, x: Tensor, body: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.body = body
        with torch.no_grad():
            return body(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(ctx.body(x), x, gradient)[0], None


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients"])
def test_what_is_computed_again_in_the_backward_pass_meets_the_same_model(
    method: str, right: dict[str, Tensor]
) -> None:
    model = Net(lambda body, x: Recomputing.apply(x, body)).train()
    before = facts(model)
    assert error(explained(model, method), right[method]) < 1e-10
    assert facts(model) == before


# --- E.3 threads ------------------------------------------------------------------------------------------------------------


class Guarded(Net):
    """Notes if two threads are in it at once, or meet it in another state than eval mode and frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.faults, self.fail = 0, [], False

    def forward(self, x: Tensor) -> Tensor:
        self.inside += 1
        time.sleep(0.001)
        if self.inside != 1:
            self.faults.append("two at once")
        if self.training or any(parameter.requires_grad for parameter in self.parameters()):
            self.faults.append("unfrozen")
        try:
            if self.fail:
                raise KeyError("a bug")
            return super().forward(x)
        finally:
            self.inside -= 1


def wrappers(model: nn.Module) -> list[nn.Module]:
    """Return ways to the same modules, and a network of its own with the same parameters."""
    alias = Net()
    for name, parameter in model.named_parameters():
        owner, _, key = name.rpartition(".")
        setattr(alias.get_submodule(owner), key, parameter)
    alias.body[1].load_state_dict(model.body[1].state_dict())
    return [
        model,
        nn.Sequential(model),
        Normalized(model, [0.0] * 3, [1.0] * 3).double(),
        nn.DataParallel(model),
        alias,
    ]


@pytest.mark.parametrize("round_", range(2))
def test_four_threads_on_one_model_take_turns_and_leave_it_as_it_was(round_: int, right: dict[str, Tensor]) -> None:
    """Every method in every thread, through different wrappers; half of the calls use one explainer."""
    model = Guarded().train()
    model.stem.requires_grad_(requires_grad=False)
    ways = wrappers(model)
    before = facts(model)
    shared = {method: wcx.Explainer(model, method, **options(method)) for method in METHODS}
    runs = {method: explainer(photos()) for method, explainer in shared.items()}
    v = wcx.cotangent(runs["gradient"].logits, 1)

    def work(number: int) -> float:
        worst = 0.0
        for i in range(len(METHODS)):
            method = METHODS[(i + 3 * number) % len(METHODS)]
            maps = explained(ways[(i + number + round_) % len(ways)], method, layer="body.3")
            again = runs[method].explain(v if i % 2 else v[None])  # one run in several threads
            worst = max(worst, error(maps, right[method]), error(again.reshape(maps.shape), right[method]))
        return worst

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(work, range(4))) < 1e-5  # LRP's epsilon of 1e-6 at the two functions of `Normalized`
    assert not model.faults
    assert facts(model) == before


def test_threads_whose_network_fails_leave_it_as_it_was_and_let_the_others_on(right: dict[str, Tensor]) -> None:
    model = Guarded()
    model.body.train()  # a part alone, as in fine-tuning
    before = facts(model)

    def work(number: int) -> None:
        for method in METHODS:
            if number % 2:
                with pytest.raises(WcxError, match=r"no layer|explains the input|out of range"):
                    wcx.explain(model, photos(), 99, method, layer="nowhere" if method in ACTIVATION else None)
            assert error(explained(model, method), right[method]) < 1e-10

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    model.fail = True
    for method in METHODS:
        with ThreadPoolExecutor(2) as pool:
            for future in [pool.submit(explained, model, method) for _ in range(2)]:
                with pytest.raises(KeyError):
                    future.result()
    assert not model.faults
    assert facts(model) == before


def test_different_models_do_not_wait_for_each_other(right: dict[str, Tensor]) -> None:
    first, second = Net(), Net()
    inside, done = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        assert done.wait(30)

    first.stem.register_forward_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        maps = pool.submit(explained, first, "gradient")
        assert inside.wait(30)
        assert error(explained(second, "gradcam"), right["gradcam"]) < 1e-10
        done.set()
        assert error(maps.result(), right["gradient"]) < 1e-10


def test_one_thread_may_explain_a_model_from_within_it(right: dict[str, Tensor]) -> None:
    """A hook that explains the network it hangs on: no thread waits for itself."""
    model, seen = Net(), []

    def hook(*_: object) -> None:
        if not seen:
            seen.append(None)
            seen.append(explained(model, "gradcam"))

    model.head.register_forward_hook(hook)
    assert error(explained(model, "gradient"), right["gradient"]) < 1e-10
    assert error(seen[1], right["gradcam"]) < 1e-10


def test_threads_with_compiled_models_leave_the_compiler_as_it_was(right: dict[str, Tensor]) -> None:
    """The stance of torch's compiler belongs to the process: the last thread has to restore what the first one met."""
    from torch._dynamo import eval_frame

    models = [torch.compile(Net(), backend="eager") for _ in range(3)]
    stance = eval_frame._stance

    def work(number: int) -> float:
        return max(
            error(explained(models[(number + i) % 3], method), right[method]) for i, method in enumerate(METHODS)
        )

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(work, range(3))) < 1e-10
    assert eval_frame._stance == stance


# --- E.4 the caller's contexts, and modules that compute their weights ----------------------------------------------------------

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    OLD_WEIGHT_NORM, OLD_SPECTRAL_NORM = nn.utils.weight_norm, nn.utils.spectral_norm

WRAPS: dict[str, Wrap] = {
    "weight_norm, by a hook": OLD_WEIGHT_NORM,
    "spectral_norm, by a hook": OLD_SPECTRAL_NORM,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
CONTEXTS = [nullcontext, torch.no_grad, torch.inference_mode]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", WRAPS)
def test_weights_that_are_computed(name: str, mode: str, context: type) -> None:
    """Against a plain network that has the computed weights as its own."""
    model, plain = Net(wrap=WRAPS[name]), Net()
    for copied, source in ((plain.stem, model.stem), (plain.body[0], model.body[0])):
        if mode == "eval" or "hook" not in name:
            model(photos())
        with torch.no_grad():
            model.eval()(photos())
            copied.weight.copy_(source.weight)
            copied.bias.copy_(source.bias)
    for part in ("body.1", "body.3", "head"):
        plain.get_submodule(part).load_state_dict(model.get_submodule(part).state_dict())
    getattr(model, mode)()
    for method in METHODS:
        before = facts(model)
        with context():
            maps = explained(model, method)
            assert torch.is_grad_enabled() == (context is nullcontext)
        assert error(maps, explained(plain, method)) < 1e-10, method
        assert facts(model) == before, method


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


def compiled_inside(model: nn.Module) -> nn.Module:
    model.body = torch.compile(model.body, backend="eager")
    return model


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("make", [compiled, compiled_in_place, compiled_inside])
def test_compiled_models(make: Wrap, context: type, right: dict[str, Tensor]) -> None:
    model = make(Net())
    with torch.no_grad():
        model(photos())
    before = facts(model)
    for method in METHODS:
        with context():
            maps = explained(model, method)
        assert error(maps, right[method]) < 1e-10, method
    assert facts(model) == before


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("method", METHODS)
def test_autocast_together_with_other_contexts(method: str, context: type) -> None:
    """bfloat16 keeps eight bits, hence the cosine. LRP and DeepLIFT know from the coarsest dtype what rounding is."""
    model, images = Net().float().train(), photos().float()
    exact = explained(model, method, images)
    before = facts(model)
    with context(), torch.autocast("cpu", dtype=torch.bfloat16):
        maps = explained(model, method, images)
    assert maps.dtype == torch.float32
    assert float(F.cosine_similarity(maps.flatten(), exact.flatten(), 0)) > 0.99
    assert facts(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_run_keeps_the_autocast_of_its_forward_pass(method: str) -> None:
    """Also where its passes come later: integrated gradients walk in bfloat16 if the clean pass did, and only then."""
    model, images = Net().float(), photos().float()
    explainer = wcx.Explainer(model, method, **options(method))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = explainer(images)
        v = wcx.cotangent(coarse.logits.float(), 1)
        inside = coarse.explain(v)
    assert torch.equal(coarse.explain(v), inside)
    exact = explainer(images)
    outside = exact.explain(v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(exact.explain(v), outside)
    assert not torch.equal(inside, outside)


def test_a_network_that_changes_its_buffers_in_every_pass_gets_them_back() -> None:
    """Statistics that are updated in eval mode, before they are used, a count, a buffer replaced by another."""

    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros((), dtype=torch.long))
            self.register_buffer("last", torch.full((2,), torch.nan))

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            self.last = x.detach().mean((1, 2, 3))
            mean = self.body[1].running_mean
            with torch.no_grad():
                F.batch_norm(torch.full_like(photos(8).transpose(0, 1), 2), mean, torch.ones_like(mean), training=True)
            return super().forward(x)

    model, plain = Counting().train(), Net()
    plain.body[1].running_mean.lerp_(torch.tensor(2.0).double(), 0.1)  # what it is when it is used
    before = facts(model)
    for method in METHODS:
        run = wcx.Explainer(model, method, **options(method))(photos())
        v = wcx.cotangent(run.logits, 1)
        if method == "deeplift":  # the reference's pass and the image's are of two functions
            with pytest.raises(WcxError, match="out of sight"):
                run.explain(v)
            assert facts(model) == before
            continue
        for _ in range(2):
            maps = run.explain(v)
            if method != "integrated_gradients":  # whose every step is of another function
                assert error(maps, explained(plain, method)) < 1e-12, method
            assert facts(model) == before, method


def test_all_passes_of_one_call_meet_the_model_as_it_was() -> None:
    """`wcx.explain` takes the model once, for the passes of both directions."""

    class Counting(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return super().forward(x) * self.passes

    model = Counting()
    before, v = facts(model), wcx.cotangent(model(photos()).detach(), 1)
    model.passes.zero_()
    once = wcx.explain(model, photos(), 1, "gradient", samples=1)
    assert torch.equal(once, wcx.Explainer(model, "gradient", samples=1)(photos()).explain(v))
    assert facts(model) == before


# --- E.5 a model that is touched between the passes -----------------------------------------------------------------------------

RUNS: dict[str, dict[str, object]] = {
    **{method: {"method": method, **options(method)} for method in METHODS},
    "smoothgrad": {"method": "gradient", "samples": 3},
}


class Hooked(Net):
    """With hooks of the user's that change values."""

    def __init__(self) -> None:
        super().__init__()
        self.handles = [
            self.body[1].register_forward_hook(lambda _module, _args, output: 1.5 * output),
            self.head.register_forward_pre_hook(lambda _module, args: (args[0] + 0.1,)),
        ]


def remove_hooks(model: Hooked) -> None:
    for handle in model.handles:
        handle.remove()


def add_hooks(model: Hooked) -> None:
    model.body[2].register_forward_hook(lambda _module, _args, output: 3 * output)
    model.head[0].register_full_backward_hook(lambda _module, inner, _outer: tuple(3 * g for g in inner))
    model.register_forward_pre_hook(lambda _module, args, kwargs: ((3 * args[0],), kwargs), with_kwargs=True)


def backward(model: Hooked) -> None:
    model.eval()(photos()).sum().backward()


def close(model: Hooked) -> Iterator[None]:
    model.requires_grad_(requires_grad=False)


HARMLESS = {
    "hooks removed": remove_hooks,
    "hooks added": add_hooks,
    "train mode": nn.Module.train,
    "frozen": close,
    "a backward pass": backward,
    "compiled": lambda model: model.compile(backend="eager"),
    "copied": copy.deepcopy,
}


@pytest.mark.parametrize("run_of", RUNS)
@pytest.mark.parametrize("touch", HARMLESS)
def test_a_run_explains_the_forward_pass_that_was_made(touch: str, run_of: str) -> None:
    model = Hooked()
    run = wcx.Explainer(model, **RUNS[run_of])(photos())
    v = wcx.cotangent(run.logits, 1)
    expected, residual = run.explain(v), getattr(run, "residual", None)
    run = wcx.Explainer(model, **RUNS[run_of])(photos())
    HARMLESS[touch](model)
    before = facts(model)
    assert error(run.explain(v), expected) < 1e-12
    if residual is not None:
        torch.testing.assert_close(run.residual, residual, rtol=1e-9, atol=1e-12)
    assert facts(model) == before


@pytest.mark.parametrize(("method", "tolerance"), [("deeplift", 0.05), ("lrp", 0.1)])
def test_autocast_keeps_the_size_of_a_map(method: str, tolerance: float) -> None:
    model, images = nets.residual(), nets.images(2)
    expected = wcx.explain(model, images, 0, method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = wcx.explain(model, images, 0, method)
    assert (rough - expected).norm() < tolerance * expected.norm()


def descend(model: Net) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(photos()).sum().backward()
    optimizer.step()


def scale_data(model: Net) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(2)


def zero_a_filter(model: Net) -> None:
    model.body[3].weight.data[5] = 0


def statistics(model: Net) -> None:
    norm = model.body[1]
    F.batch_norm(photos().repeat(1, 3, 1, 1)[:, :8], norm.running_mean, norm.running_var, training=True)


CHANGES = {
    "an optimiser's step": descend,
    "weights written past autograd": scale_data,
    "a filter set to zero": zero_a_filter,
    "weights loaded": lambda model: model.load_state_dict(Net().float().double().state_dict()),
    "cast": nn.Module.float,
    "a pass in train mode": lambda model: model.train()(photos()),
    "statistics": statistics,
    "a buffer": lambda model: model.body[1].running_var.add_(1),
    "another layer": lambda model: setattr(model.head, "3", nn.Linear(32, 5).double()),
    "another activation": lambda model: setattr(model.body, "2", nn.Tanh()),
}


@pytest.mark.parametrize("run_of", RUNS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_run_of_a_model_whose_weights_have_changed_is_one_line(change: str, run_of: str) -> None:
    model = Net()
    run = wcx.Explainer(model, **RUNS[run_of])(photos())
    v = wcx.cotangent(run.logits, 1)
    run.explain(v)
    CHANGES[change](model)
    before = facts(model)
    with pytest.raises(WcxError, match="weights, buffers or modules have changed since the forward pass; call the exp"):
        run.explain(v)
    if run_of == "integrated_gradients":
        with pytest.raises(WcxError, match="have changed since"):
            _ = run.residual
    assert facts(model) == before
    assert model.body[0].weight.grad is None or change == "an optimiser's step"


@pytest.mark.parametrize("method", ACTIVATION)
def test_several_methods_at_once_are_as_careful(method: str) -> None:
    """`explain_each`, as the masking experiment calls it: checkpointed, in train mode, after a step."""
    model = Net(CHECKPOINTS["not reentrant"]).train()
    run = wcx.Explainer(model, method, layer="body.3")(photos())
    v = wcx.cotangent(run.logits, 1)[None]
    before = facts(model)
    maps = run.explain_each({method: wcx.methods.create(method)}, v)[method]
    assert error(maps[0], explained(Net(), method, layer="body.3")) < 1e-10
    assert facts(model) == before
    descend(model)
    with pytest.raises(WcxError, match="have changed"):
        run.explain_each({method: wcx.methods.create(method)}, v)
