"""How JSON configs are loaded, overlaid, overridden and checked."""
