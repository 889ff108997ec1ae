r"""Draw a plan as a PNG: sizes and spacings of the cases, and the patch on a slice of a prepared case.

    dynunet-bundle draw-plan DATA/Task09_Spleen --config_file bundle/configs/tasks/Task09_Spleen_3d.json \
        --output plan.png

It needs matplotlib: pip install "dynunet-bundle[watch]".
"""

import argparse
from pathlib import Path

from dynunet_bundle.commands.model import training_workflow
from dynunet_bundle.commands.parser import CommandParser
from dynunet_bundle.machine.places import cache_folder
from dynunet_bundle.terminal import say


def add_arguments(parser: CommandParser) -> None:
    """Options of the command."""
    parser.add_training_source()
    parser.add_picture()
    parser.add_argument(
        "--cache_dir", type=Path, default=cache_folder(), help="cache of facts, as in plan"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np

    from dynunet_bundle.dataset.case_errors import apply_to_case
    from dynunet_bundle.dataset.select import load_dataset
    from dynunet_bundle.drawing.charts import save_figure
    from dynunet_bundle.planning.fingerprint import are_pictures, extract_fingerprint
    from dynunet_bundle.planning.picture import draw_plan
    from dynunet_bundle.planning.plan import plan_from

    dataset = load_dataset(arguments.dataset_dir)
    facts = extract_fingerprint(dataset, cache_dir=arguments.cache_dir)
    overrides = {"dataset_dir": arguments.dataset_dir}
    workflow = training_workflow(arguments, overrides)
    plan = plan_from(workflow.parser.get_parsed_content("plan"))
    # a plan for another spacing may have its axes in another order
    same_axes = sorted(plan.axcodes) == sorted(facts.axcodes)
    order = [facts.axcodes.index(code) for code in plan.axcodes] if same_axes else [0, 1, 2]
    volumes = facts.shapes_after_crop.prod(axis=1)
    median_case = dataset.training[int(np.argsort(volumes, kind="stable")[len(volumes) // 2])]
    preprocessing = workflow.parser.get_parsed_content("preprocessing")
    prepared = apply_to_case(median_case, preprocessing)
    figure = draw_plan(
        plan,
        facts.spacings_mm[:, order],
        facts.shapes_after_crop[:, order],
        prepared["image"][0].numpy(),
        prepared["label"][0].numpy(),
        are_pictures(dataset, facts),
    )
    save_figure(figure, arguments.output)
    say("the picture is in {}", arguments.output)
