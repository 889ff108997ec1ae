"""From a data set to a plan: facts of the data, and the patch, spacing and network that follow from them."""
