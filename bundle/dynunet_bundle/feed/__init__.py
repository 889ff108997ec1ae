"""The training feed: a numpy source that decides, a DALI graph that computes, a loader that a trainer takes."""
