"""The text of an sbatch script that trains on several machines and goes on after the time limit."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template

from dynunet_bundle.cross_validation.commands import training_command
from dynunet_bundle.errors import EXIT_STOPPED, ConfigError
from dynunet_bundle.training.watching.status import STATUS_NAME

PORT = 29500
"""Where the machines of a job meet, torchrun's usual one."""

WAIT_S = 900
"""How long srun waits for the other machines when one has ended: they may be saving, or waiting for it to come back."""

OWN_IDS = {
    "bundle_root": "the bundle beside scripts/",
    "ckpt_dir": "--out",
    "config_file": "--task_config",
    "output_dir": "--out",
    "rank": "--nodes",
    "world_size": "--nodes",
}
"""Ids that the script sets, and the option of scripts/slurm.py that decides them."""

TEMPLATE = Path(__file__).with_name("slurm.sh.jinja")


@dataclass(frozen=True)
class SlurmJob:
    """A training as a job of SLURM.

    Attributes:
        bundle: the bundle folder, as every machine of the job sees it.
        dataset_dir: folder of the data set, likewise.
        out: run folder, likewise; ``models`` and ``run`` come below it.
        overlays: task overlay and recipes, later ones over earlier ones.
        nodes: machines.
        gpus_per_node: GPUs of each; 0 trains on CPUs.
        processes_per_node: processes of each; None for one a GPU.
        cpus_per_process: cores of each process, for its feed.
        numa_binding: which cores near its GPU each process keeps to, as torchrun's ``--numa-binding``; None for any.
        time: limit as SLURM writes it, e.g. ``24:00:00``.
        signal_s: seconds before the limit at which the training is told to stop and save.
        max_restarts: how often torchrun starts the processes again when one has failed.
        directives: further options of sbatch, e.g. ``--partition=gpu``.
        overrides: further ``--id value`` pairs, as on a command line.
    """

    bundle: Path
    dataset_dir: Path
    out: Path
    overlays: tuple[Path, ...] = ()
    nodes: int = 1
    gpus_per_node: int = 1
    processes_per_node: int | None = None
    cpus_per_process: int = 8
    numa_binding: str | None = None
    time: str = "24:00:00"
    signal_s: int = 120
    max_restarts: int = 3
    directives: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def num_processes(self) -> int:
        """Processes of each machine."""
        given = self.processes_per_node
        return self.gpus_per_node if given is None else given


def sbatch_script(job: SlurmJob) -> str:
    """The script.

    Args:
        job: what it trains and on what.

    Raises:
        ConfigError: for a number out of range, or text that would begin another line.
    """
    _check(job)
    torchrun = [
        f"--nnodes={job.nodes}",
        f"--nproc_per_node={job.num_processes}",
        "--rdzv_id=$SLURM_JOB_ID",
        "--rdzv_backend=c10d",
        f"--rdzv_endpoint=$first:{PORT}",
        f"--max-restarts={job.max_restarts}",
        "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        *([] if job.numa_binding is None else [f"--numa-binding={job.numa_binding}"]),
    ]
    settings = {
        "dataset_dir": job.dataset_dir,
        "ckpt_dir": job.out / "models",
        "output_dir": job.out / "run",
    }
    command = training_command(job.bundle, job.overlays, settings, job.overrides, torchrun)
    template = Template(
        TEMPLATE.read_text(encoding="utf-8"), keep_trailing_newline=True, undefined=StrictUndefined
    )
    return template.render(
        directives="\n".join(f"#SBATCH {directive}" for directive in _directives(job)),
        status=shlex.quote(str(job.out / "run" / STATUS_NAME)),
        command=_lines(command),
        wait_s=WAIT_S,
        stopped=EXIT_STOPPED,
    )


def _directives(job: SlurmJob) -> list[str]:
    gpus = [f"--gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []
    return [
        f"--job-name={job.out.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *gpus,
        f"--cpus-per-task={job.cpus_per_process * job.num_processes}",
        f"--time={job.time}",
        f"--signal=B:USR1@{job.signal_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={job.out}/slurm-%j.log",
        *job.directives,
    ]


def _lines(command: Sequence[str]) -> str:
    """A command of several lines, an option and its value on each."""
    lines: list[str] = []
    for word in command:
        text = f'"{word}"' if "$" in word and word.startswith("--rdzv") else shlex.quote(word)
        if word.startswith("--") or not lines:
            lines.append(text)
        else:
            lines[-1] += f" {text}"
    return " \\\n    ".join(lines)


def _check(job: SlurmJob) -> None:
    for name, value, least in (
        ("nodes", job.nodes, 1),
        ("gpus_per_node", job.gpus_per_node, 0),
        ("processes_per_node", job.num_processes, 1),
        ("cpus_per_process", job.cpus_per_process, 1),
        ("signal_s", job.signal_s, 1),
        ("max_restarts", job.max_restarts, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}. It must be at least {least}.")
    if job.gpus_per_node and job.num_processes > job.gpus_per_node:
        raise ConfigError(
            f"{job.num_processes} processes cannot have a GPU each of {job.gpus_per_node}. "
            "Lower --processes_per_node."
        )
    if job.numa_binding and not job.gpus_per_node:
        raise ConfigError(
            "--numa_binding binds to cores near a GPU, and the job asks for none. Leave it out."
        )
    for text in [job.time, *job.directives, str(job.out)]:
        # SLURM reads the lines itself, by rules of its own for quotes and blanks
        if not text or any(character.isspace() or character in "\"'#" for character in text):
            raise ConfigError(
                f'"{text}" cannot stand in an #SBATCH line. Leave out blanks, quotes and #.'
            )
