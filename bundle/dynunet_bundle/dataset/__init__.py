"""The cases of a data set, and the selection of those that are used."""
