"""What processes share on one machine: locks on folders, and limits of memory."""
