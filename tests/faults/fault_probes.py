"""Handlers that an overlay puts into a training; they do the damage, in the process where it happens."""

import errno
import io
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

PAUSE_S = 120.0


class KillInSave:
    """SIGKILL when half of a state of the training is written.

    Args:
        number: which of the states, from 1.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.saved = 0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.replace)

    def replace(self) -> None:
        real = torch.save

        def save(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            self.saved += "optimizer" in content
            if "optimizer" not in content or self.saved < self.number:
                return real(content, file, *args, **kwargs)
            whole = io.BytesIO()
            real(content, whole)
            file.write(whole.getvalue()[: whole.tell() // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = save


class Pause:
    """Write ``paused_R`` with the id of this process, once, and wait: for a signal, or for ``go_on`` in the folder.

    Args:
        folder: of these files.
        at: the iteration of the training in which to wait, from 1.
        until: ``"signal"`` or ``"file"``.
        evaluator: given, it waits in the first validation in which the trainer has done so many iterations.
        rank: index of this process.
        only: the rank that waits.
    """

    def __init__(
        self,
        folder: str,
        at: int,
        until: str,
        evaluator: Engine | None = None,
        rank: int = 0,
        only: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.at, self.until, self.evaluator = at, until, evaluator
        self.rank, self.only = rank, only
        self.signalled = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        waits_in = engine if self.evaluator is None else self.evaluator
        waits_in.add_event_handler(Events.ITERATION_STARTED, self.pause, engine)

    def start(self) -> None:
        (self.folder / f"pid_{self.rank}").write_text(str(os.getpid()))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            self.listen(number)

    def listen(self, number: int) -> None:
        before = signal.getsignal(number)

        def note(number: int, frame: FrameType | None) -> None:
            self.signalled = True
            if callable(before):
                before(number, frame)

        signal.signal(number, note)

    def pause(self, _: Engine, trainer: Engine) -> None:
        marker = self.folder / f"paused_{self.rank}"
        if self.rank != self.only or trainer.state.iteration != self.at or marker.exists():
            return
        marker.write_text(str(os.getpid()))
        deadline = time.monotonic() + PAUSE_S
        while time.monotonic() < deadline:
            done = self.signalled if self.until == "signal" else (self.folder / "go_on").exists()
            if done:
                return
            time.sleep(0.02)
        raise TimeoutError(f"no {self.until} came")


class ExitCode:
    """Write ``exit_R`` with the code by which this process leaves at once; torchrun does not tell it."""

    def __init__(self, folder: str, rank: int) -> None:
        self.path = Path(folder) / f"exit_{rank}"

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.replace)

    def replace(self) -> None:
        real = os._exit

        def leave(code: int) -> None:
            self.path.write_text(str(code))
            real(code)

        os._exit = leave


class OutOfMemory:
    """What torch raises on a GPU that is full, in the network, at an iteration of the training."""

    def __init__(self, network: nn.Module, at: int) -> None:
        self.network, self.at = network, at
        self.engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        self.engine = engine
        self.network.register_forward_pre_hook(self.fill)

    def fill(self, module: nn.Module, inputs: Any) -> None:
        if self.engine is not None and self.engine.state.iteration == self.at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class LimitFiles:
    """From an iteration on no file may grow beyond a size, as under a quota: writing fails with EFBIG.

    Args:
        num_bytes: that size.
        at: the iteration of the training, from 1.
    """

    def __init__(self, num_bytes: int, at: int) -> None:
        self.num_bytes, self.at = num_bytes, at

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.limit)

    def limit(self, engine: Engine) -> None:
        if engine.state.iteration == self.at:
            # CPython ignores SIGXFSZ, so that the call fails and the process lives
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.num_bytes, resource.RLIM_INFINITY))


class FullForTensorBoard:
    """The disk has room for all but TensorBoard's file, which a thread writes, from an iteration on."""

    def __init__(self, at: int) -> None:
        self.at = at

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.fill)

    def fill(self, engine: Engine) -> None:
        if engine.state.iteration == self.at:
            from tensorboard.summary.writer.record_writer import RecordWriter

            def write(*_: Any) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            RecordWriter.write = RecordWriter.flush = write


class FillDisk:
    """Another program takes all space that is left, at an iteration of the training."""

    def __init__(self, path: str, at: int) -> None:
        self.path, self.at = Path(path), at

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.fill)

    def fill(self, engine: Engine) -> None:
        if engine.state.iteration == self.at:
            with suppress(OSError), self.path.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass


class DamageStore:
    """Cut all images of the store when the training starts, after they were found whole."""

    def __init__(self, store: str, dataset: Any) -> None:
        self.store, self.dataset = Path(store), dataset

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.damage)

    def damage(self) -> None:
        self.dataset.cases()
        for path in self.store.glob("*.image.npy"):
            path.write_bytes(path.read_bytes()[:-1000])


class LimitGpu:
    """From an iteration on torch may have but a part of the GPU's memory, as beside another program."""

    def __init__(self, fraction: float, at: int) -> None:
        self.fraction, self.at = fraction, at

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self.limit)

    def limit(self, engine: Engine) -> None:
        if engine.state.iteration == self.at:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(self.fraction)
