"""Models by name and on disk: the registry, the two files of a saved model, the hub, model cards."""
