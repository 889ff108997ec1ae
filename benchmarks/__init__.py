"""Measurements against other projects: each contender a process of its own, compared as ratios of one run."""
