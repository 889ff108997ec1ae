"""Components that a config from outside may name as ``_target_``.

MONAI imports the named object and calls it. Packages cannot be allowed as a whole: each has members that unpickle,
open addresses or start processes. So the list has single names: all that the bundle's configs use, and components that
overlays of users replace most often. A test keeps the first two groups equal to the configs.
"""

MONAI_COMPONENTS = frozenset(
    (
        *("AsDiscreted", "Compose", "CopyItemsd", "CropForegroundd", "DataLoader", "DeleteItemsd"),
        *("EnsureChannelFirstd", "LoadImaged", "LrScheduleHandler", "MeanDice"),
        *("SupervisedEvaluator", "SupervisedTrainer", "TensorBoardStatsHandler"),
        *("monai.networks.trt_compile", "torch.utils.tensorboard.SummaryWriter"),
    )
)
"""Components of MONAI and torch that the bundle's configs name."""

OWN_COMPONENTS = frozenset(
    f"dynunet_bundle.{name}"
    for name in (
        *(
            "configs.preflight.check_command",
            "configs.preflight.preflight",
            "configs.recipe.recipe_of_command",
            "configs.shared.shared",
        ),
        *("dataset.inputs.find_inputs", "dataset.previous_stage.with_previous"),
        *("dataset.select.FoldCases", "dicom_output.save_objects.SaveDicomObjectsd"),
        *("evaluation.scores.ScoreHandler", "feed.loader.DaliLoader"),
        *("inference.evaluator.CaseEvaluator", "inference.evaluator.CaseProgress"),
        "machine.locks.release_claims",
        "inference.model_use.ModelUse",
        *("inference.inferer.PatchInferer", "inference.probabilities.SaveProbabilitiesd"),
        *("inference.quality.NoteQualityd", "inference.restore.RestoreClassesd"),
        *("inference.run_record.RunRecord", "inference.save_mask.SaveMaskd"),
        *("labels.classes.ClassesToValuesd", "labels.classes.ValuesToClassesd"),
        *("labels.largest_component.KeepLargestd", "labels.regions_to_classes.RegionsToClassesd"),
        *("labels.scheme.LabelScheme", "networks.architectures.plain_network"),
        *("networks.architectures.training_network", "networks.dynunet.deep_supervision_weights"),
        *("networks.precision.AutocastInferer", "networks.precision.training_precision"),
        "networks.weights.inference_network",
        *("preprocessing.append_previous.AppendPreviousd", "preprocessing.check.CheckCased"),
        "preprocessing.axes.ArrayAxesd",
        *("preprocessing.crop.is_nonzero", "preprocessing.normalize.NormalizeChannelsd"),
        *("preprocessing.raw_dataset.RawDataset", "preprocessing.raw_dataset.collate_cases"),
        *("preprocessing.resample.ResampleToSpacingd", "preprocessing.store.PreparedDataset"),
        *("training.handlers.checkpoint.CheckpointHandler", "training.losses.SegmentationLoss"),
        *("training.handlers.clipping.GradientClipping", "training.handlers.ema.EmaHandler"),
        *("training.handlers.ema.averaged_network", "training.handlers.failures.FailureHandler"),
        *("training.handlers.fine_tuning.PretrainedWeights", "training.optimizers.make_optimizer"),
        *("training.handlers.stopping.StopHandler", "training.handlers.validation.EarlyStopping"),
        *("training.handlers.validation.LateValidationHandler", "training.schedules.make_schedule"),
        *("training.process.distributed.Shard", "training.process.distributed.distributed_network"),
        *("training.process.distributed.local_device", "training.process.distributed.rank"),
        "training.process.distributed.start_processes",
        *("training.process.distributed.stop_processes", "training.process.distributed.world_size"),
        "training.process.numerics.set_numerics",
        *("training.validation_loss.ValidationLoss", "training.validation_masks.TargetMasks"),
        *("training.watching.curves.CurvesHandler", "training.watching.progress.ProgressHandler"),
        *(
            "training.watching.status_file.StatusFile",
            "training.watching.tensorboard.ExampleSlices",
        ),
        *("training.watching.tensorboard.write_epoch", "training.watching.tracking.EpochTracking"),
        "training.watching.tracking.NamedScores",
    )
)
"""Components of this package that the bundle's configs name."""

EXTENSIONS = frozenset(
    (
        *(f"torch.optim.{name}" for name in ("SGD", "Adam", "AdamW", "RMSprop")),
        *("torch.optim.lr_scheduler.StepLR", "torch.optim.lr_scheduler.MultiStepLR"),
        *("torch.optim.lr_scheduler.ExponentialLR", "torch.optim.lr_scheduler.PolynomialLR"),
        *("torch.optim.lr_scheduler.CosineAnnealingLR", "torch.optim.lr_scheduler.OneCycleLR"),
        *("DiceLoss", "DiceCELoss", "DiceFocalLoss", "FocalLoss", "GeneralizedDiceLoss"),
        *("GeneralizedDiceFocalLoss", "TverskyLoss", "HausdorffDTLoss"),
        *(
            "DynUNet",
            "UNet",
            "BasicUNet",
            "SegResNet",
            "AttentionUnet",
            "UNETR",
            "SwinUNETR",
            "VNet",
        ),
        *("SimpleInferer", "SlidingWindowInferer", "Novograd", "WarmupCosineSchedule"),
        *(
            "StatsHandler",
            "HausdorffDistance",
            "SurfaceDistance",
            "ConfusionMatrix",
            "MeanIoUHandler",
        ),
        *(
            "NormalizeIntensityd",
            "ScaleIntensityRanged",
            "ScaleIntensityd",
            "Spacingd",
            "EnsureTyped",
        ),
        *("Activationsd", "KeepLargestConnectedComponentd", "FillHolesd"),
        *("RandGibbsNoised", "RandKSpaceSpikeNoised", "RandBiasFieldd", "RandRicianNoised"),
        *("RandCoarseDropoutd", "RandHistogramShiftd", "RandGaussianSharpend"),
    )
)
"""Components of MONAI and torch that users' overlays may put into their place. None reads files or takes functions
that a config could choose beyond this list."""

COMPONENTS = MONAI_COMPONENTS | OWN_COMPONENTS | EXTENSIONS

READER = "dynunet_bundle.preprocessing.reader.ImageFileReader"
READER_ARGUMENTS = frozenset(
    ("_target_", "keys", "reader", "image_only", "dtype", "allow_missing_keys")
)
"""Arguments of ``LoadImaged`` that reach no reader. MONAI passes all others on, and imports the reader by its name;
its ``NumpyReader`` unpickles."""


def target_fault(target: str) -> str | None:
    """Why a ``_target_`` is not allowed, or None.

    Args:
        target: a dotted name, or a short one that MONAI looks up in its own modules.
    """
    if target in COMPONENTS:
        return None
    return f"{target} is not among the components that a config may name (configs/targets.py)"


def reader_fault(component: dict[str, object]) -> str | None:
    """Why a component must not read files in the way that its arguments ask for, or None.

    Args:
        component: a JSON object with ``_target_``.
    """
    if str(component["_target_"]).split(".")[-1] != "LoadImaged":
        return None
    if component.get("reader") != READER:
        return f"the reader of LoadImaged must be {READER}"
    others = sorted(map(str, component.keys() - READER_ARGUMENTS))
    return f"LoadImaged would pass {others[0]} to a reader" if others else None
