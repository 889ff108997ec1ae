"""The Python behind the bundle's JSON configs: planning, preprocessing, DALI feed, training, inference, evaluation.

Import the submodules you need; this module stays light so that ``import dynunet_bundle`` costs nothing.
"""

__version__ = "0.1.0"
