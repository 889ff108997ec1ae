"""The text of an sbatch script that starts Ray on the machines of a job and predicts on them."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template

from dynunet_bundle.cross_validation.slurm import require_directives
from dynunet_bundle.errors import EXIT_STOPPED

TEMPLATE = Path(__file__).with_name("slurm.sh.jinja")


@dataclass(frozen=True)
class PredictionScript:
    """A prediction as a SLURM job. All paths must be valid on every machine of the job.

    Attributes:
        words: arguments of ``dynunet-bundle predict``.
        output_dir: folder of the masks, for the log of the job.
        folder: work folder, to which paths are relative.
        nodes: number of machines.
        gpus_per_node: GPUs per machine; 0 predicts on CPUs.
        cpus_per_node: cores per machine.
        time: time limit in SLURM's notation, e.g. ``24:00:00``.
        signal_s: seconds before the limit at which the prediction is stopped.
        directives: further options of sbatch, e.g. ``--partition=gpu``.
    """

    words: Sequence[str]
    output_dir: Path
    folder: Path
    nodes: int = 1
    gpus_per_node: int = 1
    cpus_per_node: int = 8
    time: str = "24:00:00"
    signal_s: int = 120
    directives: tuple[str, ...] = ()

    def text(self) -> str:
        """The script.

        Raises:
            ConfigError: if a text is not valid in an ``#SBATCH`` line.
        """
        require_directives([self.time, *self.directives, str(self.output_dir)])
        gpus = [f"--gpus-per-node={self.gpus_per_node}"] if self.gpus_per_node else []
        directives = [
            f"--job-name={self.output_dir.name}",
            f"--nodes={self.nodes}",
            "--ntasks-per-node=1",
            *gpus,
            f"--cpus-per-task={self.cpus_per_node}",
            f"--time={self.time}",
            f"--signal=B:USR1@{self.signal_s}",
            "--requeue",
            "--open-mode=append",
            f"--output={self.output_dir}/slurm-%j.log",
            *self.directives,
        ]
        template = Template(
            TEMPLATE.read_text(encoding="utf-8"),
            keep_trailing_newline=True,
            undefined=StrictUndefined,
        )
        command = [sys.executable, "-m", "dynunet_bundle", "predict", *self.words]
        return template.render(
            directives="\n".join(f"#SBATCH {directive}" for directive in directives),
            folder=shlex.quote(str(self.folder)),
            programs=shlex.quote(str(Path(sys.executable).parent)),
            nodes=self.nodes,
            cpus=self.cpus_per_node,
            gpus=self.gpus_per_node,
            command=shlex.join(command),
            stopped=EXIT_STOPPED,
        )
