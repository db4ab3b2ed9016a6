"""How many steps a second a run makes with actors beside its learner: a simulation that shows the bottleneck."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, replace

ROUNDS = 8  # of an actor's environments in a batch that it sends
INGEST = 0.065  # ms of the learner a step, for arrivals and replay of 64x64 images; vectors take less


@dataclass(frozen=True)
class Load:
    """What a run asks for, in milliseconds.

    Attributes:
        acting, each_more: the policy's time for one environment, and for each further one at once.
        environment: one step of one environment, at least and at most; those of a process step one after another.
        update: one gradient update.
        updates: of them a step.
        cores: that acting and learning share; None where each has what it needs.
    """

    name: str
    acting: float
    each_more: float
    environment: tuple[float, float]
    update: float
    updates: float
    cores: int | None = None

    def act(self, environments: int) -> float:
        return self.acting + (environments - 1) * self.each_more

    @property
    def learning(self) -> float:
        """Of the learner a step, in milliseconds, with what it takes to keep the step."""
        return INGEST + self.updates * self.update

    @property
    def learner_alone(self) -> float:
        """Steps a second that the updates allow."""
        return 1e3 / (self.updates * self.update)

    def in_one_process(self, environments: int) -> float:
        """Steps a second of a run without actors."""
        step = sum(self.environment) / 2 + self.updates * self.update
        return 1e3 * environments / (self.act(environments) + environments * step)


def with_actors(load: Load, actors: int, environments: int = 1, seconds: float = 60.0) -> float:
    """Steps a second that are learned from, where actors send a batch and go on, at most one of theirs waiting.

    Args:
        environments: of each actor.
        seconds: simulated; counted is the second half.
    """
    draw = random.Random(0)
    cores = [0.0] * (load.cores or 0)  # until when each is taken
    taken = [0.0] * actors  # when the learner took an actor's last batch
    learner, learned, batch, end = 0.0, 0, ROUNDS * environments, 1e3 * seconds
    at_once = 1 if cores else ROUNDS  # rounds of an actor that nobody else's work comes between

    def work(begin: float, milliseconds: float) -> tuple[float, float]:
        """Begin and end, on the first core that is free."""
        if cores:
            begin = max(begin, heapq.heappop(cores))
            heapq.heappush(cores, begin + milliseconds)
        return begin, begin + milliseconds

    def stepped(now: float) -> float:
        return now + sum(draw.uniform(*load.environment) for _ in range(at_once * environments))

    batch_time = ROUNDS * (load.act(environments) + environments * load.environment[0])
    # When, of whom, its rounds since the last batch; actors do not begin together.
    events = [(stepped(draw.uniform(0.0, batch_time)), actor, 0) for actor in range(actors)]
    heapq.heapify(events)
    while events[0][0] < end:
        now, actor, rounds = heapq.heappop(events)
        if rounds < ROUNDS:
            rounds += at_once
            acted = work(now, at_once * load.act(environments))[1]
            heapq.heappush(events, (acted if rounds == ROUNDS else stepped(acted), actor, rounds))
        elif taken[actor] > now:
            heapq.heappush(events, (taken[actor], actor, rounds))
        else:
            taken[actor], learner = work(max(now, learner), batch * load.learning)
            learned += batch * (end / 2 < learner <= end)
            heapq.heappush(events, (stepped(now), actor, 0))
    return 2 * learned / seconds


_TDMPC2 = Load("TD-MPC2 5m, 1 update a step", 5.5, 1.04, (2, 2), 3.39, 1.0)
_DREAMER = Load("DreamerV3 12m, ratio 512", 0.37, 0.0, (3, 3), 48.5, 0.5)
# Loads of one GPU, each with the load of its actors: those without a GPU act and plan on a CPU.
CASES: tuple[tuple[Load, Load, int], ...] = (
    (_TDMPC2, replace(_TDMPC2, acting=560.0, each_more=520.0, name=f"{_TDMPC2.name}; actors on CPUs"), 1),
    (_TDMPC2, replace(_TDMPC2, name=f"{_TDMPC2.name}; actors of 8 environments on a GPU each"), 8),
    *(
        (load, replace(load, acting=2.5, each_more=0.23), 1)
        for load in (
            _DREAMER,
            replace(_DREAMER, updates=0.03125, name="DreamerV3 12m, ratio 32"),
            replace(
                _DREAMER, updates=0.03125, environment=(30, 30), name="DreamerV3 12m, ratio 32, a slow environment"
            ),
        )
    ),
)


def run() -> str:
    """Print a Markdown table: steps a second in one process, with actors, and of the learner alone."""
    lines = ["| run | one process, E = 1 / 16 | 1 actor | 8 actors | 64 actors | the learner alone |", f"|{6 * '---|'}"]
    for alone, actors, environments in CASES:
        rates = [f"{with_actors(actors, number, environments):.0f}" for number in (1, 8, 64)]
        one = f"{alone.in_one_process(1):.0f} / {alone.in_one_process(16):.0f}"
        lines.append(f"| {' | '.join([actors.name, one, *rates, f'{alone.learner_alone:.0f}'])} |")
    print("\n".join(lines))
    return "\n".join(lines)
