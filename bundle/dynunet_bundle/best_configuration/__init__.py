"""nnU-Net's choice among plans, pairs of plans and component rules."""
