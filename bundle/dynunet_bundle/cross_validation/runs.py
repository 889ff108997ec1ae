"""Folds of a cross-validation, all in turn or a single one: train, predict the held-out cases, summarise.

Stored on disk in the run folder:

    fold_0/models, fold_0/run ...   ckpt_dir and output_dir of each training
    prepared                        the prepared cases, shared by all folds
    cross_validation                see cross_validation/results.py

Finished steps are skipped: the same command resumes where it stopped, and each fold can be a separate job.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dynunet_bundle.configs.command import check_overlays
from dynunet_bundle.configs.command_line import read_command_line
from dynunet_bundle.configs.overrides import known_ids
from dynunet_bundle.configs.workflow import load_workflow
from dynunet_bundle.cross_validation.commands import (
    ProcessRunner,
    bundle_command,
    numa_options,
    status_content,
    training_command,
)
from dynunet_bundle.cross_validation.out_of_fold import is_scored, score_basis, score_fold
from dynunet_bundle.cross_validation.request import ALL, FoldsRequest, chosen_folds, parse_overrides
from dynunet_bundle.cross_validation.results import (
    ResultFolder,
    collect,
    require_disjoint,
    require_same,
)
from dynunet_bundle.cross_validation.summary import format_folds
from dynunet_bundle.dataset.cases import Case, name_of
from dynunet_bundle.dataset.folds import Folds, find_folds, told_fold
from dynunet_bundle.dataset.previous_stage import with_previous
from dynunet_bundle.dataset.select import load_dataset
from dynunet_bundle.errors import EXIT_STOPPED, ConfigError, counted
from dynunet_bundle.networks.model_json import model_facts
from dynunet_bundle.planning.plan import plan_differences
from dynunet_bundle.terminal import say, tell_start
from dynunet_bundle.training.watching.status import STATUS_NAME

CONFIGS = {"training": ("train.json",), "evaluating": ("train.json", "evaluate.json")}
"""Configs of the commands that a fold takes, by the id of their run list."""

logger = logging.getLogger(__name__)


def train_folds(request: FoldsRequest) -> int:
    """Train and score the requested folds, and summarise all folds scored so far.

    Returns:
        0; 75 if a signal stopped it; otherwise the exit code of the first command that failed.

    Raises:
        BundleError: for bad input.
    """
    with ProcessRunner() as runner:
        runs = FoldRuns(request, runner)
        runs.tell_start()
        if request.fold == ALL:
            return runs.train(ALL)
        folds = chosen_folds(request.fold, request.folds, len(runs.folds))
        for fold in folds:
            code = runs.complete(fold)
            if code:
                return code
            if runner.signal is not None:
                return EXIT_STOPPED
        print("Dice in native space, out of fold")
        print(format_folds(collect(runs.results)))
        say("saved to {}", runs.results.path / "summary.json")
    return 0


class FoldRuns:
    """The folds of one request.

    Args:
        request: the folds to train, and how.
        runner: runs the commands.

    Raises:
        BundleError: if the configs or the data set are wrong, or the run folder belongs to another plan or split.
    """

    def __init__(self, request: FoldsRequest, runner: ProcessRunner) -> None:
        self.request = request
        self.runner = runner
        configs = request.bundle / "configs"
        known = known_ids(configs)
        overlays = list(map(str, request.overlays))
        self._usages = {
            run: check_overlays([*(str(configs / name) for name in names), *overlays], known, [run])
            for run, names in CONFIGS.items()
        }
        usages = list(self._usages.values())
        self._given = parse_overrides(request.overrides, known, usages=usages)
        self.settings = {
            "dataset_dir": str(request.dataset_dir),
            "prepared_dir": str(request.out / "prepared"),
            **(request.settings or {}),
        }
        parser = self._parser()
        self.plan: dict[str, Any] = parser.get_parsed_content("plan")
        self.epochs: int = parser.get_parsed_content("epochs")
        dataset = load_dataset(request.dataset_dir)
        # before cases are prepared
        parser.get_parsed_content("cases").require_own_plan(dataset)
        cases = dataset.training
        self.cases: dict[str, Case] = {name_of(case): case for case in cases}
        self.previous_dir: str | None = parser.get_parsed_content("previous_dir")
        self.folds = self._find_folds(parser)
        self.held_out = [fold["val"] for fold in self.folds]
        self.results = ResultFolder(request.out / "cross_validation")
        if request.fold != ALL:
            require_disjoint(self.held_out)
            require_same(self.results.records(), self.plan, self.held_out, self.results.path)

    def tell_start(self) -> None:
        """Log what will be trained, and where."""
        tell_start(
            "training",
            task=self.plan["task_name"],
            cases=len(self.cases),
            patch=list(self.plan["patch_size"]),
            epochs=self.epochs,
            processes=self.request.num_processes,
            folder=self.request.out,
        )

    def complete(self, fold: int) -> int:
        """Train and score a fold unless that is done, then update the summary.

        Returns:
            The exit code.
        """
        if self.request.collect_only:
            if not self._is_finished(fold):
                logger.info("fold %d: not finished", fold)
                return 0
        else:
            code = self.train(fold)
            if code or self.runner.signal is not None:
                return code or EXIT_STOPPED
        code = self.score(fold)
        if code == 0:
            collect(self.results)
        return code

    def train(self, fold: int | str) -> int:
        """Train a fold, or ``"all"`` cases; resume a training that was stopped.

        Returns:
            The exit code.
        """
        if self._is_finished(fold):
            logger.info("fold %s: the training has finished", told_fold(fold))
            return 0
        self.prepare(fold)
        logger.info("fold %s: training", told_fold(fold))
        processes, binding = self.request.num_processes, self.request.numa_binding
        options = ["--standalone", f"--nproc_per_node={processes}", *numa_options(binding)]
        command = training_command(
            self.request.bundle,
            self.request.overlays,
            self._fold_settings(fold),
            self._arguments("training"),
            options if processes > 1 or binding else None,
        )
        return self.runner.run(command, self._status_file(fold))

    def prepare(self, fold: int | str) -> None:
        """Prepare the cases of a fold; jobs of other folds share the folder.

        Raises:
            BundleError: for a case that cannot be prepared.
        """
        names = set(self.cases)
        if fold != ALL:
            part = self.folds[int(fold)]
            names = {*part["train"], *part["val"]}
        data = self._cases_of(names)
        dataset = self._parser({"train#dataset#data": data}).get_parsed_content("train#dataset")
        dataset.cases()

    def score(self, fold: int) -> int:
        """Predict and score the held-out cases of a fold, unless that is done with these weights.

        Returns:
            The exit code.
        """
        cases = self._cases_of(self.held_out[fold])
        basis = score_basis(self._fold_dir(fold) / "models" / "model.pt", cases)
        if is_scored(self.results, fold, basis, self.plan, self.held_out):
            logger.info("fold %d: the held-out cases have been scored", fold)
            return 0
        logger.info(
            "fold %d of %d: predicting %s", fold, len(self.folds), counted(len(cases), "case")
        )

        def evaluate(masks_dir: Path) -> int:
            settings = {**self._fold_settings(fold), "masks_dir": masks_dir}
            used = {
                name: value
                for name, value in settings.items()
                if self._usages["evaluating"].uses(name)
            }
            configs: list[str | Path] = [*CONFIGS["evaluating"], *self.request.overlays]
            arguments = self._arguments("evaluating")
            return self.runner.run(
                bundle_command("evaluating", self.request.bundle, configs, used, arguments)
            )

        run_dir = self._fold_dir(fold) / "run"
        return score_fold(self.results, fold, basis, self.plan, self.held_out, evaluate, run_dir)

    def _find_folds(self, parser: Any) -> Folds:
        """The folds that ``FoldCases`` finds; none if every case is trained on."""
        if self.request.fold == ALL:
            return []
        splits_file, num_folds = map(parser.get_parsed_content, ("splits_file", "num_folds"))
        return find_folds(list(self.cases), splits_file, num_folds)

    def _arguments(self, run: str) -> list[str]:
        """The overrides that a run uses, in command-line form."""
        texts = read_command_line(["run", *self.request.overrides]).texts
        usage = self._usages[run]
        used = [f"--{name}={text}" for name, text in texts.items() if usage.uses(name)]
        return [*used, *(("--trust", "True") if self.request.trust else ())]

    def _cases_of(self, names: Iterable[str]) -> list[Case]:
        """Cases by name; in a cascade, each with the mask of the previous stage."""
        cases = [self.cases[name] for name in sorted(names)]
        return with_previous(cases, self.previous_dir, self.plan["cascade"])

    def _is_finished(self, fold: int | str) -> bool:
        """Whether the training has finished; not if ``restart`` is set or more epochs are requested."""
        if self._given.get("restart"):
            return False
        models = self._fold_dir(fold) / "models"
        facts = model_facts(models / "model.pt")
        if facts:
            differences = plan_differences(facts.get("plan", {}), self.plan)
            if differences:
                raise ConfigError(
                    f"{models} holds a training of another plan ({'; '.join(differences)}). "
                    "Choose another --output_dir, or start over with --restart True."
                )
        status = status_content(self._status_file(fold))
        return status.get("state") == "finished" and status.get("epochs", 0) >= self.epochs

    def _parser(self, overrides: Mapping[str, Any] | None = None) -> Any:
        return load_workflow(
            self.request.bundle,
            "train.json",
            [str(overlay) for overlay in self.request.overlays],
            {**self.settings, **(overrides or {})},
            settings=self._given,
            trust=self.request.trust,
        ).parser

    def _fold_settings(self, fold: int | str) -> dict[str, Any]:
        folder = self._fold_dir(fold)
        own = {"fold": fold, "ckpt_dir": folder / "models", "output_dir": folder / "run"}
        return {**self.settings, **own}

    def _fold_dir(self, fold: int | str) -> Path:
        return self.request.out / f"fold_{fold}"

    def _status_file(self, fold: int | str) -> Path:
        return self._fold_dir(fold) / "run" / STATUS_NAME
