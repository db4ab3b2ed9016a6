"""World model families, one folder a paper; each registers itself when imported through its entry point."""
