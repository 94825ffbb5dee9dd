"""Chunks as tasks for Ray's workers, on one machine or many; whatever dies is started anew, and its chunks are tried again.

A worker is an actor that holds one block at a time: it opens dataset and network itself, from its own disk. It has up to two
chunks of that block, so that it reads the images of the second while it computes the first. The driver's dispatcher (a
thread) is all that knows who does what; Ray tells it when a chunk is there or a worker is lost.
"""

from __future__ import annotations

import functools
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from wcx.errors import WcxError
from wcx.experiments import Cell
from wcx.pipeline.block import Computed, OpenedBlock, identity
from wcx.pipeline.cluster import Worker, connected
from wcx.pipeline.executors import Executor
from wcx.pipeline.job import Job

log = logging.getLogger("wcx")
_DEPTH = 2  # chunks that a worker has: one is computed, the next one's images are read
_TRIES = 10  # of a chunk whose workers die
_LOOK = 5.0  # seconds between two looks at what machines there are
_PATIENCE = 60.0  # seconds without any worker until the user is told


@dataclass(order=True)
class _Task:
    """A call of a block's method, as long as it is not done: in the order of blocks, then of chunks."""

    number: int
    chunk: int
    name: str = field(compare=False)
    arguments: tuple[Any, ...] = field(compare=False)
    opener: Any = field(compare=False)  # Ray's reference of it
    result: Future[Any] = field(compare=False, default_factory=Future)
    tries: int = field(compare=False, default=0)


@dataclass(eq=False)
class _Hand:
    """A worker as the dispatcher sees it."""

    actor: Any
    ready: bool = False
    number: int = -1  # of the block that it holds
    tasks: list[_Task] = field(default_factory=list)

    def rank(self, task: _Task) -> tuple[int, bool] | None:
        """Return how well a task fits, less is better; None if it does not: another block waits until this one is done."""
        if not self.ready or len(self.tasks) == _DEPTH or (self.tasks and self.number != task.number):
            return None
        return len(self.tasks), self.number != task.number


class Ray(Executor):
    """Workers by Ray, as many as the machines it finds can hold.

    Args:
        address: of a cluster that runs (``auto``: the one here); None: RAY_ADDRESS, or else a new one on this machine.
        workers: how many; None: as many as there is room for.
        num_cpus: of a worker.
        num_gpus: of a worker, maybe a fraction; None: 1 where there are GPUs.
        threads: of a pass on the CPU; None: num_cpus.

    Raises:
        WcxError: Ray is not installed or not there, or has no room for a single worker.
    """

    blocks: ClassVar[int] = 2

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        threads: int | None = None,
    ) -> None:
        self._ray = connected(address)
        available = self._ray.cluster_resources()
        self.num_gpus = min(1.0, available.get("GPU", 0.0)) if num_gpus is None else num_gpus
        self.on_gpu = self.num_gpus > 0
        self._asked, self._needs = workers, {"CPU": num_cpus, "GPU": self.num_gpus}
        actor = functools.partial(self._ray.remote, num_cpus=num_cpus, num_gpus=self.num_gpus, max_concurrency=_DEPTH)
        self._actor = actor()(Worker)
        self._arguments = threads or max(1, round(num_cpus)), str(Path.cwd())
        self._hands: list[_Hand] = []
        self._waiting: list[_Task] = []
        self._closed = False
        self._losses = 0  # of workers, since the last success
        self._numbers = itertools.count()
        self._events: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.workers = workers or self._room()
        if not self._room():
            self._ray.shutdown()
            raise WcxError(
                f"Ray offers {available.get('CPU', 0):g} CPUs and {available.get('GPU', 0):g} GPUs, and a worker needs "
                f"{num_cpus:g} and {self.num_gpus:g}; give other num_cpus=... num_gpus=..., or more machines."
            )
        self._dispatcher = threading.Thread(target=self._dispatch, daemon=True)
        self._dispatcher.start()

    def close(self) -> None:
        """End the workers, and Ray where it was started here; what was computed and not asked for is lost."""
        self._closed = True
        self._events.put(None)
        self._dispatcher.join()
        self._ray.shutdown()

    @contextmanager
    def chunks(
        self, job: Job, cells: Sequence[Cell], missing: Sequence[int], most: Callable[[int], int | None]
    ) -> Iterator[Callable[[int], Computed]]:
        """See `Executor.chunks`; some chunks ahead are computed before they are asked for."""
        submit, tasks = self._block(job, cells), dict[int, _Task]()

        def take(chunk: int) -> Computed:
            ahead = [number for number in missing if number > chunk][: (_DEPTH + 1) * self.workers]
            for number in (chunk, *ahead):
                if number not in tasks:
                    tasks[number] = submit(number, "chunk", number, most(number))
            limit, task = most(chunk), tasks.pop(chunk)
            computed: Computed = task.result.result()
            if limit is not None and computed.selected >= limit != task.arguments[1]:
                # The end is in this chunk, which was not known when it was computed: once more, as one process would.
                computed = submit(chunk, "chunk", chunk, limit).result.result()
            return computed

        try:
            yield take
        finally:
            for task in tasks.values():  # behind the end, or after an error
                task.result.cancel()

    def plan(self, job: Job, cells: Sequence[Cell], probe: int, images: int) -> dict[str, Any]:
        facts: dict[str, Any] = self._block(job, cells)(-1, "plan", probe, images).result.result()
        return facts

    def _block(self, job: Job, cells: Sequence[Cell]) -> Callable[..., _Task]:
        """Return what submits a task of a block: the chunk it is for, a method of `OpenedBlock`, and its arguments."""
        if job.opener is None:
            raise WcxError(
                f"{job.dataset.name} {job.loaded.name} cannot be opened by another process; give its job an opener."
            )
        number, opener = next(self._numbers), functools.partial(OpenedBlock.reopened, job.opener, cells, identity(job))
        reference = self._ray.put(opener)

        def submit(chunk: int, name: str, *arguments: Any) -> _Task:
            task = _Task(number, chunk, name, arguments, reference)
            self._events.put(lambda: self._waiting.append(task))
            if self._closed:
                task.result.cancel()
            return task

        return submit

    def _room(self) -> int:
        """Return how many workers the machines hold that Ray knows now."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needs = {name: need for name, need in self._needs.items() if need}
        return sum(int(min(node.get(name, 0.0) / need for name, need in needs.items())) for node in nodes)

    # What follows runs in the dispatcher, one event after the other.

    def _dispatch(self) -> None:
        fault: BaseException | None = None
        try:
            self._serve()
        except BaseException as error:  # ours: whoever waits gets it, and nobody waits for ever
            fault = error
        self._closed = True
        for task in itertools.chain(self._waiting, *(hand.tasks for hand in self._hands)):
            _settle(task, error=fault or CancelledError())

    def _serve(self) -> None:
        looked, idle = time.monotonic(), 0.0
        while True:
            while len(self._hands) < self.workers:
                self._start()
            self._hand_out()
            try:
                event = self._events.get(timeout=_LOOK)
                idle = 0.0
            except Empty:
                event, idle = lambda: None, idle + _LOOK
            if event is None:
                break
            event()
            if idle >= _PATIENCE and not any(hand.ready for hand in self._hands):
                log.warning("no worker has started for %.0f s: each waits for %s", idle, self._needs)
                idle = 0.0
            if self._asked is None and time.monotonic() - looked > _LOOK:  # machines come and go
                self.workers, looked = max(1, self._room()), time.monotonic()

    def _start(self) -> None:
        hand = _Hand(self._actor.remote(*self._arguments))
        self._hands.append(hand)
        self._when_done(hand.actor.ready.remote(), functools.partial(self._started, hand))

    def _when_done(self, reference: Any, handle: Callable[[Future[Any]], object]) -> None:
        reference.future().add_done_callback(lambda future: self._events.put(lambda: handle(future)))

    def _hand_out(self) -> None:
        """Give the tasks that wait to the workers that they fit best."""
        for task in sorted(self._waiting):
            ranks = [(rank, hand) for hand in self._hands if (rank := hand.rank(task)) is not None]
            if task.result.cancelled() or ranks:
                self._waiting.remove(task)
            if ranks and not task.result.cancelled():
                _, hand = min(ranks, key=lambda pair: pair[0])
                hand.number = task.number
                hand.tasks.append(task)
                reference = hand.actor.call.remote(task.number, task.opener, task.name, task.arguments)
                self._when_done(reference, functools.partial(self._done, hand, task))

    def _started(self, hand: _Hand, future: Future[Any]) -> None:
        if (error := future.exception()) is None:
            hand.ready = True
        else:
            self._lost(hand, error)

    def _done(self, hand: _Hand, task: _Task, future: Future[Any]) -> None:
        if task not in hand.tasks:
            return  # the worker was given up, and the task with it
        error = future.exception()
        if isinstance(error, self._ray.exceptions.RayTaskError):  # the worker lives: the computation failed
            error.cause.add_note(str(error))  # with the worker's traceback
            _settle(task, error=error.cause)
        elif error is None:
            self._losses = 0
            _settle(task, future.result())
        else:
            self._lost(hand, error)
            return
        hand.tasks.remove(task)

    def _lost(self, hand: _Hand, error: BaseException) -> None:
        """Take a worker off, and try its tasks elsewhere; once for all the news of its end."""
        if hand not in self._hands:
            return
        self._hands.remove(hand)
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(hand.actor)
        self._losses += 1
        reason = " ".join(str(error).split())
        log.debug("a worker is lost: %s", reason)
        tasks, hand.tasks = hand.tasks, []
        for task in tasks:
            task.tries += 1
        self._waiting += tasks
        hopeless = self._losses > _TRIES * self.workers
        for task in [task for task in self._waiting if hopeless or task.tries == _TRIES]:
            self._waiting.remove(task)
            message = (
                f"chunk {task.chunk}: {self._losses if hopeless else _TRIES} workers died one after the other: {reason}"
            )
            _settle(task, error=WcxError(message))


def _settle(task: _Task, value: Any = None, error: BaseException | None = None) -> None:
    """Set a task's result, unless nobody waits for it any more."""
    if task.result.set_running_or_notify_cancel():
        task.result.set_result(value) if error is None else task.result.set_exception(error)
