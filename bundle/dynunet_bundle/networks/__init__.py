"""The networks, their weight files, exported stand-ins, and the precision in which they compute."""
