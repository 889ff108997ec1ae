"""What a training computes: loss, optimizer, schedule; handlers, processes and watching have rooms of their own."""
