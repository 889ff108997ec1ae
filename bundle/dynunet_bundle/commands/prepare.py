"""Prepare all cases of a data set; training does the same for missing cases.

dynunet-bundle prepare DATA/Task09_Spleen --config_file bundle/configs/tasks/Task09_Spleen_3d.json
"""

import argparse

from dynunet_bundle.commands.cluster_options import cluster_of
from dynunet_bundle.commands.model import training_workflow
from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_training_source()
    parser.add_prepared_dir()
    parser.add_ray()


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from dynunet_bundle.api.data_sets import prepare_overrides

    overrides = prepare_overrides(arguments.dataset_dir, arguments.prepared_dir)
    workflow = training_workflow(arguments, overrides)
    dataset = workflow.parser.get_parsed_content("train#dataset")
    workers = cluster_of(arguments)
    if workers:
        from dynunet_bundle.cluster.prepare import PreparationJob, prepare_on_cluster

        job = PreparationJob(arguments.config_file, overrides, arguments.model, arguments.trust)
        prepare_on_cluster(dataset, job, workers)
    else:
        dataset.cases()
    say("prepared cases are in {}", workflow.parser.get_parsed_content("prepared_dir"))
