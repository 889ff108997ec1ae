"""From a data set to a plan: what the data looks like, and which patch, spacing and network follow from it."""
