"""Networks, their weight files, exported models that replace them, and the precision of their computation."""
