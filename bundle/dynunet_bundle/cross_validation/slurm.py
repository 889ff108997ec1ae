"""The text of an sbatch script that trains on several machines and resumes after the time limit."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template

from dynunet_bundle.cross_validation.commands import training_command
from dynunet_bundle.errors import EXIT_STOPPED, ConfigError
from dynunet_bundle.training.watching.status import STATUS_NAME

PORT = 29500
"""Rendezvous port of the machines of a job; torchrun's default."""

WAIT_S = 900
"""Seconds that srun waits for the other machines after one has ended: they may be saving or waiting for it."""

OWN_IDS = {
    "bundle_root": "the bundle beside scripts/",
    "ckpt_dir": "--output_dir",
    "config_file": "--config_file",
    "output_dir": "--output_dir",
    "rank": "--nodes",
    "world_size": "--nodes",
}
"""Ids that the script sets, with the option of dynunet-bundle slurm that determines each."""

TEMPLATE = Path(__file__).with_name("slurm.sh.jinja")


@dataclass(frozen=True)
class SlurmJob:
    """A training as a SLURM job. All paths must be valid on every machine of the job.

    Attributes:
        bundle: the bundle folder.
        dataset_dir: folder of the data set.
        out: run folder, with the subfolders ``models`` and ``run``.
        overlays: task overlay and recipes; later ones override earlier ones.
        nodes: number of machines.
        gpus_per_node: GPUs per machine; 0 trains on CPUs.
        processes_per_node: processes per machine; None for one per GPU.
        cpus_per_process: cores per process, for its feed.
        numa_binding: binds each process to cores near its GPU, as torchrun's ``--numa-binding``; None: not bound.
        time: time limit in SLURM's notation, e.g. ``24:00:00``.
        signal_s: seconds before the limit at which the training is signalled to save and stop.
        max_restarts: how often torchrun restarts failed processes.
        directives: further options of sbatch, e.g. ``--partition=gpu``.
        overrides: further ``--id value`` pairs in command-line form.
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
        """Processes per machine."""
        given = self.processes_per_node
        return self.gpus_per_node if given is None else given


def sbatch_script(job: SlurmJob) -> str:
    """The text of the sbatch script.

    Args:
        job: the training and its resources.

    Raises:
        ConfigError: if a number is out of range, or a text is not valid in an ``#SBATCH`` line.
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
    """The command, one option with its value per line."""
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
            f"{job.num_processes} processes need a GPU each, but there are {job.gpus_per_node} per machine. "
            "Lower --processes_per_node."
        )
    if job.numa_binding and not job.gpus_per_node:
        raise ConfigError(
            "--numa_binding binds processes to cores near a GPU, but the job has no GPU. Leave it out."
        )
    require_directives([job.time, *job.directives, str(job.out)])


def require_directives(texts: Sequence[str]) -> None:
    """Refuse texts that SLURM would read otherwise: it parses its lines with its own rules for quotes and spaces.

    Raises:
        ConfigError: if a text is not valid in an ``#SBATCH`` line.
    """
    for text in texts:
        if not text or any(character.isspace() or character in "\"'#" for character in text):
            raise ConfigError(
                f'"{text}" is not valid in an #SBATCH line. Leave out spaces, quotes and #.'
            )
