"""A site's side of a federation: MONAI's client for federated learning in a task of NVFlare.

Stored on disk: ``SITE_SCHEMA``, in one JSON file per site, which that site writes. The server never sees it.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.literals import literal
from dynunet_bundle.errors import ConfigError
from dynunet_bundle.files import read_json
from dynunet_bundle.shapes import OBJECT, TEXT, object_with
from dynunet_bundle.training.handlers.position import replay_schedule

SITES_VARIABLE = "DYNUNET_BUNDLE_SITES"
"""Environment variable of a site: the folder of its JSON file, ``SITE.json`` with the name of the site."""

SITE_SCHEMA = object_with(
    {"package": TEXT, "dataset_dir": TEXT, "work_dir": TEXT, "settings": OBJECT},
    ("package", "dataset_dir", "work_dir"),
    description="docs/federated.md has an example.",
)

SCORE = "val_mean_dice"

logger = logging.getLogger(__name__)


def read_site(name: str) -> dict[str, Any]:
    """The file of a site: ``package``, ``dataset_dir``, ``work_dir`` and, if given, ``settings`` (ids of train.json).

    Args:
        name: of the site, as NVFlare has it.

    Raises:
        ConfigError: if the variable is not set, or the file is missing or malformed.
    """
    folder = os.environ.get(SITES_VARIABLE)
    if not folder:
        raise ConfigError(
            f"{SITES_VARIABLE} is not set. Set it to the folder of {name}.json, which names package and data."
        )
    site: dict[str, Any] = read_json(Path(folder) / f"{name}.json", ConfigError, SITE_SCHEMA)
    return site


def site_client(site: Mapping[str, Any], num_rounds: int, local_epochs: int) -> Any:
    """MONAI's client on the package and the data of a site, initialized.

    Code and settings come from the site's own package, never from the server. The learning rate follows one schedule
    over all rounds.

    Args:
        site: see ``read_site``.
        num_rounds: rounds of the federation.
        local_epochs: epochs of each round.
    """
    # MONAI's federated client imports all of MONAI
    from monai.fl.client import MonaiAlgo

    work = Path(site["work_dir"]).resolve()
    package = Path(site["package"]).resolve()
    epochs = num_rounds * local_epochs
    settings = {
        "bundle_root": package,
        "dataset_dir": Path(site["dataset_dir"]).resolve(),
        "prepared_dir": work / "prepared",
        "ckpt_dir": work / "models",
        "output_dir": work / "run",
        **site.get("settings", {}),
    }
    plain = {name: literal(value) for name, value in settings.items()}
    steps = f"${epochs} * (1 if @lr_epoch_level else @iterations_per_epoch)"
    client = MonaiAlgo(
        str(package),
        local_epochs=local_epochs,
        send_weight_diff=False,
        train_kwargs={**plain, "lr_scheduler#num_steps": steps},
        eval_kwargs=plain,
    )
    client.initialize()
    return client


def take_part(num_rounds: int, local_epochs: int) -> None:
    """Take part in a federation of NVFlare until it ends: the script of its clients calls this.

    In each round the weights of the server are scored on the site's held-out cases and trained on its others. The
    site sends the trained weights, the score and its number of training cases, by which the server weights the mean.

    Args:
        num_rounds: rounds of the federation.
        local_epochs: epochs of each round.
    """
    import nvflare.client as flare
    from monai.fl.utils.exchange_object import ExchangeObject

    flare.init()
    name = flare.get_site_name()
    client = site_client(read_site(name), num_rounds, local_epochs)
    num_cases = len(client.trainer.data_loader.dataset.data)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        weights = dict(received.params)
        score = client.evaluate(ExchangeObject(weights=weights)).metrics[SCORE]
        _go_to_round(client, received.current_round or 0)
        client.train(ExchangeObject(weights=weights))
        logger.info("%s, round %s: mean Dice %.4f", name, received.current_round, score)
        flare.send(
            flare.FLModel(
                params=client.get_weights().weights,
                params_type=flare.ParamsType.FULL,
                metrics={SCORE: float(score)},
                meta={"NUM_STEPS_CURRENT_ROUND": num_cases},
            )
        )


def _go_to_round(client: Any, number: int) -> None:
    """After a restart of a client, put epoch, feed and learning rate where they are in this round."""
    state = client.trainer.state
    if state.epoch > 0 or number == 0:
        return
    parser = client.train_workflow.parser
    loader = client.trainer.data_loader
    state.epoch = number * client.local_epochs
    state.iteration = state.epoch * len(loader)
    loader.iteration = state.iteration
    by_epoch = parser.get_parsed_content("lr_epoch_level")
    steps = state.epoch if by_epoch else state.iteration
    replay_schedule(parser.get_parsed_content("lr_scheduler"), steps)
