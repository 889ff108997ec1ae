"""The Python behind the bundle's JSON configs: planning, preprocessing, DALI feed, training, inference, evaluation.

The names of ``__all__`` are for programs of others (docs/python.md); all modules are private, and may change. A name is
imported at its first use, so that ``import dynunet_bundle`` costs nothing.
"""

import importlib as _importlib
import warnings as _warnings

__all__ = ["Predictor", "evaluate", "plan", "prepare"]  # noqa: F822 - found by __getattr__

__version__ = "0.1.0"

# MONAI's loader tries all readers that it has, also where one is named, and tells of those that miss a codec
_warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

_PLACES = {"Predictor": "predictor", **dict.fromkeys(("evaluate", "plan", "prepare"), "data_sets")}
"""Module of ``api`` of each public name."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_importlib.import_module(f"{__name__}.api.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
