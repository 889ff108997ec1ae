"""Charts and slices as pictures for people, and the colours that they use."""
