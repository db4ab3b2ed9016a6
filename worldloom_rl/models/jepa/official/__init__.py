"""What LeWM's checkpoints hold, in the names of their authors' code."""
