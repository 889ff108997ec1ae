"""Models of nnU-Net v2 as models of this bundle, and back; nnunetv2 itself is not needed."""
