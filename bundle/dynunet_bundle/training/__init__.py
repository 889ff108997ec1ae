"""Loss, optimizer and schedule; handlers, processes and monitoring are subpackages."""
