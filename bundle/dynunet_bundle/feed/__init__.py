"""The training feed: a numpy source that draws samples, a DALI graph that computes them, and the loader."""
