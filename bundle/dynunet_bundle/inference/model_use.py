"""A model is used as it was trained: with its plan, preprocessing and mirroring, scored on cases that it has not seen.

``learnt_from`` of model.json says what a training used. Weights of earlier versions lack it, which gives a notice.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from dynunet_bundle.dataset.case_marks import is_marked, name_mark
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.errors import ConfigError, WeightsError, counted, some_of
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.networks.weights import (
    require_learnt_mirroring,
    require_own_plan,
    require_weights,
    weight_files,
    weights_are_given,
)
from dynunet_bundle.preprocessing.recipe import image_recipe
from dynunet_bundle.shapes import MAX_VALUE, excerpt

logger = logging.getLogger(__name__)


class ModelUse:
    """Compare a use of weights with their training: ``model_use`` of inference.json and evaluate.json.

    The inferer checks it at each call, since every client that predicts takes the inferer, but not the handlers. As a
    handler it checks before the first case, and also the scored cases: ``state.trained_cases`` of the engine has the
    names of those that the model was trained on.

    Args:
        weights_file: the ``.pt`` file, or a list of them for an ensemble.
        preprocessing: the declared preprocessing.
        cases: cases that will be scored; empty if nothing is.
        allow_trained_cases: whether cases that the model was trained on may be scored.
        plan: the plan ids of the config.
        mirror_axes: axes that the prediction mirrors over; the training must have mirrored over them too.
    """

    def __init__(
        self,
        weights_file: str | Sequence[str],
        preprocessing: Any,
        cases: Sequence[Case] = (),
        allow_trained_cases: bool = False,
        plan: Mapping[str, Any] | None = None,
        mirror_axes: Sequence[int] = (),
    ) -> None:
        self.weights = weight_files(weights_file)
        self.preprocessing = preprocessing
        self.cases = cases
        self.allow_trained_cases = allow_trained_cases
        self.plan = plan
        self.mirror_axes = list(mirror_axes)
        self._fits = False

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Check the use as the engine starts, unless its weights do not come from the file."""
        network = getattr(engine, "network", None)
        if weights_are_given(network):
            logger.info("the weights were given, so that the cases they learnt from are not known")
            engine.state.trained_cases = []
            return
        require_weights(network)
        engine.state.trained_cases = self.check()

    def check(self) -> list[str]:
        """Check the use, and the cases that will be scored.

        Returns:
            Names of the cases that the model was trained on, each once.

        Raises:
            WeightsError: as ``require_fit``.
            ConfigError: if the weights were trained on cases that would be scored.
        """
        self.require_fit()
        trained: list[str] = []
        for path in self.weights:
            facts = model_facts(path)
            learnt = facts.get("learnt_from")
            if learnt is not None:
                names = self._trained(path, learnt["trained"])
                # in their order, and once for an ensemble
                trained = list(dict.fromkeys([*trained, *names]))
                if names and not self.allow_trained_cases:
                    raise ConfigError(self._explanation(path, learnt["fold"], names))
        if trained:
            logger.warning("scores of cases that the model was trained on are too good")
        return trained

    def require_fit(self) -> None:
        """Check plan, preprocessing and mirroring, once.

        Raises:
            WeightsError: if the training had another plan or preprocessing, or did not mirror over the axes.
        """
        for path in () if self._fits else self.weights:
            facts = model_facts(path)
            if self.plan is not None:
                require_own_plan(path, facts, self.plan)
            require_learnt_mirroring(path, self.mirror_axes)
            learnt = facts.get("learnt_from")
            if learnt is not None:
                self._require_preprocessing(path, learnt["preprocessing"])
            elif facts:
                logger.warning(
                    "%s does not say on which cases and with which preprocessing the model was trained, as files of "
                    "earlier versions: neither can be checked.",
                    path.with_suffix(".json").name,
                )
        self._fits = True

    def _require_preprocessing(self, path: Path, then: Sequence[Mapping[str, Any]]) -> None:
        difference = preprocessing_difference(then, image_recipe(self.preprocessing))
        if difference:
            raise WeightsError(
                f"{path} was trained with another preprocessing than this config: {difference}. Pass the overlays that "
                "it was trained with."
            )

    def _trained(self, path: Path, marks: Mapping[str, str | None]) -> list[str]:
        trained, same_name = [], []
        for case in self.cases:
            if is_marked(case, marks):
                trained.append(name_of(case))
            elif name_mark(name_of(case)) in marks:
                same_name.append(name_of(case))
        if same_name:
            logger.warning(
                "%s was trained on cases of the same names as %s, but with other images",
                path.name,
                some_of(same_name),
            )
        return trained

    def _explanation(self, path: Path, fold: Any, names: Sequence[str]) -> str:
        return (
            f"{path} is the model of fold {fold} and was trained on {len(names)} of {counted(len(self.cases), 'case')} "
            f"({some_of(names)}), so that their scores would be too good. Pass its fold and its splits_file, or "
            "--allow_trained_cases True, which marks the scores."
        )


def preprocessing_difference(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> str | None:
    """The first difference between two results of ``image_recipe``, or None.

    Settings that only one of the two has do not count: another version of MONAI may have more.
    """
    names = [[name for step in steps for name in step] for steps in (then, now)]
    if names[0] != names[1]:
        return f"{excerpt(', '.join(names[0]))} against {excerpt(', '.join(names[1]))}"
    for step, other in zip(then, now, strict=True):
        for difference in _differences(step, other, ""):
            return excerpt(difference)
    return None


def _differences(one: Any, other: Any, where: str) -> Iterator[str]:
    both = isinstance(one, Mapping) and isinstance(other, Mapping)
    # an object is described by its class
    if both and (len(one) > 1 or len(other) > 1 or one.keys() == other.keys()):
        for key in one:
            if key in other:
                yield from _differences(one[key], other[key], f"{where} {key}")
    elif one != other:
        shown = (excerpt(repr(value), MAX_VALUE) for value in (one, other))
        yield f"{where.strip()} {' against '.join(shown)}"
