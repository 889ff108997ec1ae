"""Hand out cases to the workers of a Ray cluster, one at a time.

Ray starts the workers, transports calls and results, and tells of processes and machines that died. A worker loads what
it needs once. Its process may die of a case (memory, a crash in a library), so a case is tried twice, in two processes.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynunet_bundle.errors import ConfigError, PredictionError, find_user_error

LOCAL = "local"
"""Address that starts Ray on this machine for the length of the command."""

NUM_TRIES = 2
"""Workers that may die with a case before the case counts as failed."""

MAX_FAILED_STARTS = 3
"""How often all workers may die as they start, without a result in between, before the run ends."""

POLL_S = 60.0
"""Time without a result after which a run without workers says that it waits for some."""

PRIVATE = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Setting of Ray without which it sends statistics of its use to its makers."""

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Setting of Ray that keeps all its ports on 127.0.0.1; for ``LOCAL``. Anybody who reaches them may run code."""

Item = tuple[str, Any]
"""Name of a case, and what a worker needs for it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterWorkers:
    """The workers of a run.

    Attributes:
        address: ``"local"``, ``"auto"`` for the cluster of this machine, or an address such as ``ray://HOST:10001``.
        number: how many; None for as many as the cluster has room for.
        gpus: GPUs of each; parts of one are possible. None for one if the cluster has GPUs, else 0.
        cpus: cores of each.
    """

    address: str
    number: int | None = None
    gpus: float | None = None
    cpus: float = 1.0


class Lost(NamedTuple):
    """Result of a case whose workers died.

    Attributes:
        kind: type of Ray's last error.
    """

    kind: str


class _Held(NamedTuple):
    """A call that a worker computes; ``item`` is None as long as the worker starts."""

    worker: Any
    node: str
    item: Item | None


class _Worker:
    """The process of a worker. Ray makes an object of this class in it.

    ``start`` is a call of its own, so that its errors arrive as themselves.
    """

    def __init__(self, job: Callable[[Any], Callable[[Any], Any]], settings: Any) -> None:
        self._job, self._settings = job, settings
        self._work: Callable[[Any], Any] | None = None

    def start(self) -> str:
        """Load what all cases need. Returns the id of the machine."""
        import ray

        with _user_errors():
            self._work = self._job(self._settings)
        return str(ray.get_runtime_context().get_node_id())

    def run(self, item: Any) -> Any:
        """The result of one case."""
        if self._work is None:
            raise RuntimeError("a worker got a case before it was started")
        with _user_errors():
            return self._work(item)


@contextmanager
def _user_errors() -> Iterator[None]:
    """Raise the user error behind an exception, since pickle loses the causes of exceptions."""
    try:
        yield
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None or user_error is error:
            raise
        raise user_error from error


@contextmanager
def connected(workers: ClusterWorkers) -> Iterator[ClusterWorkers]:
    """Connect to a cluster for the length of the block.

    Args:
        workers: the workers that the user wants.

    Yields:
        The workers with their number and their GPUs.

    Raises:
        ConfigError: if Ray is not installed or cannot be reached, or if the cluster never has what a worker needs.
    """
    # Ray reads them when it is imported
    os.environ.update(PRIVATE | (LOOPBACK if workers.address == LOCAL else {}))
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--ray needs Ray, which is not installed. Install it: pip install 'dynunet-bundle[cluster]'."
        ) from error
    is_own = {"include_dashboard": False} if workers.address == LOCAL else {}
    try:
        # results and messages come back as values; logs of workers stay on their machines
        ray.init(
            address=workers.address, log_to_driver=False, logging_level=logging.WARNING, **is_own
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f'no Ray cluster answers at "{workers.address}" ({type(error).__name__}). Start one with "ray start '
            '--head", or pass --ray local to use this machine.'
        ) from error
    try:
        yield _settled(workers, ray.cluster_resources())
    finally:
        ray.shutdown()


def _settled(workers: ClusterWorkers, resources: dict[str, float]) -> ClusterWorkers:
    gpus = workers.gpus
    if gpus is None:
        gpus = 1.0 if resources.get("GPU") else 0.0
    needs = {"GPU": gpus, "CPU": workers.cpus}
    rooms = [int(resources.get(name, 0) / share) for name, share in needs.items() if share]
    number = workers.number or max(1, min(rooms, default=1))
    if min(rooms, default=1) < number:
        logger.warning(
            "the cluster has room for %d of %d workers (%g GPUs and %g cores each); the others wait for machines",
            min(rooms),
            number,
            gpus,
            workers.cpus,
        )
    return ClusterWorkers(workers.address, number, gpus, workers.cpus)


class Pool:
    """Workers of a cluster that compute cases; use it inside of ``connected``.

    Args:
        workers: result of ``connected``.
        job: makes the function for one case from ``settings``, in each worker; a class or function of a module.
        settings: what ``job`` needs. Ray transports it by pickle.
    """

    def __init__(self, workers: ClusterWorkers, job: Callable[[Any], Any], settings: Any) -> None:
        self._workers, self._job, self._settings = workers, job, settings
        self._busy: dict[Any, _Held] = {}
        self._again: deque[tuple[Item, str]] = deque()
        self._deaths: Counter[str] = Counter()
        self._failed_starts = 0
        self._waiting: Iterator[Item] = iter(())
        self._ahead: Item | None = None

    def run(self, items: Iterable[Item]) -> Iterator[tuple[str, Any]]:
        """Compute cases. Only as many as there are workers are taken from ``items`` ahead of their results.

        Args:
            items: the cases, in the order in which they are begun.

        Yields:
            The name and the result of each case, as they are done; ``Lost`` if workers died with it.

        Raises:
            Exception: what ``job`` or its function raised; the run ends.
            PredictionError: if workers die as they start.
        """
        import ray

        self._waiting = iter(items)
        self._ahead = next(self._waiting, None)
        for _ in range(self._workers.number or 1 if self._ahead else 0):
            self._add()
        try:
            while self._has_items() or any(held.item for held in self._busy.values()):
                ready, _ = ray.wait(list(self._busy), num_returns=1, timeout=POLL_S)
                if ready:
                    yield from self._take(ready[0])
                else:
                    self._tell_waiting()
        finally:
            for held in self._busy.values():
                _kill(held.worker)

    def _take(self, call: Any) -> Iterator[tuple[str, Any]]:
        """Take the result of a call, and give its worker the next case."""
        import ray

        held = self._busy.pop(call)
        try:
            result = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except ray.exceptions.RayError as error:
            yield from self._bury(held, error)
            if self._has_items():
                self._add()
            return
        node = held.node if held.item else result
        item = self._next_for(node)
        if item is not None:
            self._busy[held.worker.run.remote(item[1])] = _Held(held.worker, node, item)
        if held.item:
            self._failed_starts = 0
            yield held.item[0], result

    def _has_items(self) -> bool:
        """Whether cases wait for a worker."""
        return self._ahead is not None or bool(self._again)

    def _add(self) -> None:
        """Start a worker, where there is room."""
        import ray

        made = ray.remote(_Worker).options(
            num_cpus=self._workers.cpus,
            num_gpus=self._workers.gpus or 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        worker = made.remote(self._job, self._settings)
        self._busy[worker.start.remote()] = _Held(worker, "", None)

    def _next_for(self, node: str) -> Item | None:
        """The next case for a worker: one that lost its worker elsewhere, a new one, or any."""
        for index, (item, before) in enumerate(self._again):
            if before != node or self._ahead is None:
                del self._again[index]
                return item
        new, self._ahead = self._ahead, next(self._waiting, None)
        return new

    def _bury(self, held: _Held, error: Exception) -> Iterator[tuple[str, Lost]]:
        """Count the death of a worker, and give its case back."""
        # a machine that does not answer may come back; its result would come too late
        _kill(held.worker)
        if held.item is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * (self._workers.number or 1):
                raise PredictionError(
                    f"{self._failed_starts} workers died as they loaded the model ({type(error).__name__}). Give them "
                    "more memory, and install the same environment on all machines; Ray's logs on them say more."
                ) from None
            return
        name = held.item[0]
        self._deaths[name] += 1
        if self._deaths[name] < NUM_TRIES:
            logger.warning("%s: its worker died; it is tried once more in another one", name)
            self._again.append((held.item, held.node))
        else:
            yield name, Lost(type(error).__name__)

    def _tell_waiting(self) -> None:
        if not any(held.item for held in self._busy.values()):
            logger.warning(
                "waiting for workers: the cluster has no room for one of %g GPUs and %g cores",
                self._workers.gpus,
                self._workers.cpus,
            )


def _kill(worker: Any) -> None:
    import ray

    with suppress(Exception):
        ray.kill(worker)


def enter(folder: str) -> None:
    """Let a worker work in the folder of the command, to which its paths are relative.

    Raises:
        ConfigError: if this machine does not have it.
    """
    if not os.path.isdir(folder):
        raise ConfigError(
            f"a machine of the cluster has no folder {folder}, in which the command was started. All machines must see "
            "the same folders under the same paths."
        )
    os.chdir(folder)


def lost_case(name: str, lost: Lost) -> PredictionError:
    """The error of a case whose workers died."""
    return PredictionError(
        f"case {name}: {NUM_TRIES} workers died with it ({lost.kind}). A larger --cpus_per_worker leaves fewer "
        "workers, and so more memory for each; Ray's logs on the machines say more."
    )
