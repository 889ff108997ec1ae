"""Charts, slices and text tables for people, and the colours that they use."""
