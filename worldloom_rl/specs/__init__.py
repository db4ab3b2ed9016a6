"""What actions and observations are: one flat tensor for any action space, observations by kind, specs as JSON."""
