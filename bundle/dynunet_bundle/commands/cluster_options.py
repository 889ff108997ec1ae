"""The workers that a command is given by ``--ray`` and the options that belong to it."""

import argparse
from typing import TYPE_CHECKING

from dynunet_bundle.errors import ConfigError

if TYPE_CHECKING:
    from dynunet_bundle.cluster.pool import ClusterWorkers

OPTIONS = ("workers", "gpus_per_worker", "cpus_per_worker")
"""Options that need ``--ray``."""


def cluster_of(arguments: argparse.Namespace) -> "ClusterWorkers | None":
    """The workers of a cluster, or None for this process alone.

    Raises:
        ConfigError: if an option needs ``--ray``.
    """
    if arguments.ray is None:
        given = next((name for name in OPTIONS if getattr(arguments, name) is not None), None)
        if given:
            raise ConfigError(f"--{given} is for a cluster. Pass --ray too, or leave it out.")
        return None
    from dynunet_bundle.cluster.pool import ClusterWorkers

    cpus = 1.0 if arguments.cpus_per_worker is None else float(arguments.cpus_per_worker)
    return ClusterWorkers(arguments.ray, arguments.workers, arguments.gpus_per_worker, cpus)
