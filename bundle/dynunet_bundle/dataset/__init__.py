"""Which cases a data set has, and which of them are used."""
