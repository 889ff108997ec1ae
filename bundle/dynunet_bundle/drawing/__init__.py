"""Charts, slice pictures and text tables, and their colours."""
