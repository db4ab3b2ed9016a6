"""One script a paper's algorithm; what runs them stands in `training`."""


def __getattr__(name: str) -> object:
    if name == "loop":  # where version 0.6.0 had it
        from worldloom_rl.training import loop

        return loop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
