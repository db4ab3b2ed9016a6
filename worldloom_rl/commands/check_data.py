"""`worldloom check --data`: what recorded data is to an agent, before it learns from it."""

from __future__ import annotations


def check_data(env: str, tasks: tuple[str, ...], data: tuple[str, ...], **options: int | None) -> str:
    """Widths, padding, lengths, γ, episodes and returns by task, and gigabytes, as text for a terminal.

    Args:
        options: action_repeat, time_limit and episode_length, of the run's configuration.
    Raises ValueError, FileNotFoundError or ImportError where `worldloom train tdmpc2` would.
    """
    if not data:
        raise ValueError(
            "Several tasks are looked at with what is recorded of them (--data). Without it check one environment at a "
            "time: worldloom check NAME."
        )
    from worldloom_rl.recipes import tdmpc2_offline
    from worldloom_rl.recipes.options import TDMPC2RunConfig
    from worldloom_rl.report.recorded_data import describe_recorded
    from worldloom_rl.training.recorded_windows import RecordedWindows

    config = TDMPC2RunConfig(env=env, tasks=tasks, data=data, episodic=not tasks, **options)  # type: ignore[arg-type]
    state = tdmpc2_offline.make_state(config)
    assert isinstance(state.source, RecordedWindows)
    try:
        told = describe_recorded(
            state.source, config.task_set(), state.model.discounts.tolist(), config.without_environment
        )
    finally:
        state.close()
    return told.text()
