"""Cross-validation: train each fold, predict its held-out cases, summarise; on one machine or through SLURM."""
