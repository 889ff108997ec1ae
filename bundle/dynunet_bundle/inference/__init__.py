"""From a model to a mask on the voxels of the input file. Nothing here needs DALI."""
