"""The Python behind the bundle's JSON configs: planning, preprocessing, DALI feed, training, inference, evaluation.

Import the submodules you need; this module stays light so that ``import dynunet_bundle`` costs nothing.
"""

import warnings as _warnings

__version__ = "0.1.0"

# MONAI's loader tries all readers that it has, also where one is named, and tells of those that miss a codec
_warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
