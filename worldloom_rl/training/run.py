"""What goes on around the steps of a run: the live line, evaluations, checkpoints, logs, and the result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Generic

from safetensors import SafetensorError

from worldloom_rl import ranks
from worldloom_rl.atomic import write_json
from worldloom_rl.training.checkpoint import counts_of, save_checkpoint, score_of
from worldloom_rl.training.clock import Counts
from worldloom_rl.training.compiling import Compiling, compiling
from worldloom_rl.training.evaluate import Evaluation, united
from worldloom_rl.training.finite import check_read
from worldloom_rl.training.interruption import Interrupted, Interruption
from worldloom_rl.training.learning_curve import draw_evaluations
from worldloom_rl.training.next_command import typed
from worldloom_rl.training.profile import Profile, profile_text
from worldloom_rl.training.progress import LiveLine
from worldloom_rl.training.recipe import ConfigT, ModelT, Recipe, RunState, StateT
from worldloom_rl.training.run_directory import CURVE_FILE, PROFILE_FILE, RunDirectory

FIRST_EVALUATION_SECONDS = 120.0  # beyond them the evaluation before the first step is given up
PICTURE_SECONDS = 10.0  # between two drawings of the learning curve, but for a run's end


class _TooLong(Exception):
    """The evaluation before the first step is given up."""


class Run(Generic[ConfigT, ModelT, StateT]):
    """A context around the steps of a run, which closes environments, files and the live line however it ends."""

    def __init__(self, recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, directory: RunDirectory) -> None:
        self.recipe, self.state, self.directory, self.config = recipe, state, directory, state.config
        self._open = ExitStack()
        self._warned = ""
        self._begun = False  # the evaluation before the first step was made, given up or left out
        self._drawn = time.monotonic()
        self._compiling = Compiling()

    def __enter__(self) -> Run[ConfigT, ModelT, StateT]:
        with ExitStack() as opened:
            opened.callback(self.state.close)
            opened.callback(self.directory.logs.close)
            self.interruption = opened.enter_context(Interruption())
            self.line = opened.enter_context(LiveLine(self.config.steps, self.count, self.recipe.clock.unit))
            self._begin()
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._open.__exit__(kind, error, trace)
        except OSError:  # a full disk is told once, by what failed first
            if error is None:
                raise

    def _begin(self) -> None:
        recipe, state, config = self.recipe, self.state, self.config
        self.directory.logs.wandb, self.directory.logs.clock = config.logger == "wandb", recipe.clock.name
        every, self._first = config.checkpoint_every, self.count
        self._next_checkpoint = (self._first // every + 1) * every
        if config.profile:
            state.profile = Profile(config.device)
            state.source.time_acting(state.profile)
        self._began = time.monotonic() - state.training_seconds
        plan = recipe.clock.plan(config.steps, config.repeat, state.learning_starts)
        together = f" by {ranks.count()} processes" if ranks.count() > 1 else ""
        found = "".join(f"; {part}" for part in config.found)
        self.line.say(
            f"{recipe.title} {config.preset} ({state.model.num_parameters():,} parameters) on {config.task}{together}: "
            f"{plan}{recipe.describe(state)}{found}. Run directory: {self.directory.path}"
        )
        if state.resumed and self.goes_on():
            self.line.say(state.resumed)
        self._compiling = compiling(recipe, state, self.directory)
        self._compile("")

    def _compile(self, phase: str) -> None:
        if told := self._compiling.after(phase):
            self.line.say(told)

    @property
    def count(self) -> int:
        """How far the run is, as its recipe counts."""
        return self.recipe.clock.count(self.state)

    def goes_on(self) -> bool:
        """Whether steps or updates are left, and no evaluation reached the target."""
        if self._target_reached():
            return False
        return self.count < self.config.steps or self.state.updates_due >= 1

    def after_step(self, phase: str) -> None:
        """Shows and logs what the step came to, if it is time to, and saves. Raises Interrupted if a signal came."""
        state = self.state
        self._compile(phase)
        for told in state.source.news():
            self.line.say(told)
        if self.line.due():
            self._show(phase)
            self.directory.logs.log(self._logged(), self.count)
            self._warn()
        state.training_seconds = time.monotonic() - self._began
        if self.count >= self._next_checkpoint and self.recipe.clock.is_whole(state.updates_due):
            self.save()
            self._next_checkpoint += self.config.checkpoint_every
        self.interruption.check()

    def save(self) -> None:
        """A checkpoint of where the run stands. Raises OSError, with the older ones as they were, if it has no room."""
        try:
            save_checkpoint(self.recipe, self.state, self.directory.checkpoints)
        except ranks.Lost:
            raise
        except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: torch's writer
            raise OSError(
                f"The checkpoint of {self.count} {self.recipe.clock.unit} could not be written to "
                f"{self.directory.checkpoints.directory}: {str(error)[:200]}. {self._what_is_saved()}"
            ) from error

    # ------------------------------------------------------------------ evaluations

    def evaluation_is_due(self) -> bool:
        """Whether the first one is still to be made, or the run passed a multiple of `eval_every` since the last."""
        if self.count >= self.config.steps:  # the last evaluation, with more episodes, follows
            return False
        learning = self.state.agent_steps >= self.state.learning_starts
        if learning and not self.recipe.clock.is_whole(self.state.updates_due):
            return False  # so that a checkpoint of this count is one of the same weights
        if not self.state.evaluations and not self.count:
            return self.config.first_evaluation and not self._begun
        every, made = self.config.eval_every, self.state.evaluations
        return self.count // every > (self.recipe.clock.count(made[-1]) if made else 0) // every

    def evaluate(self) -> None:
        """An evaluation between two steps; training time leaves it out."""
        begin = time.monotonic()
        if self.count or self.state.evaluations:
            self._evaluate(self.config.eval_episodes, self.config.seed + 100_000, self.interruption.check_alone)
        else:
            self._evaluate_fresh()
        if time.monotonic() - self._drawn >= PICTURE_SECONDS:
            self._draw()
        if ranks.rank() == 0:
            self.directory.checkpoints.score(self.state.agent_steps, self.state.updates, score_of(self.state))
        seconds = time.monotonic() - begin
        self._began += seconds
        self.line.leave_out(seconds)
        self.state.profile.leave_out(seconds)
        if self._target_reached():
            target = self.config.target_return
            self.line.say(f"return {self.state.evaluations[-1].mean_return:.1f} reaches the target of {target:g}")

    def _evaluate_fresh(self) -> None:
        """The evaluation before the first step, or none if it would take too long."""
        self._begun = True
        limit = FIRST_EVALUATION_SECONDS
        self.line.say(
            f"Before the first step the fresh model is evaluated, for at most {limit:g} s; --no-first-evaluation "
            "leaves that out."
        )
        until = time.monotonic() + limit

        def check() -> None:
            self.interruption.check_alone()
            if time.monotonic() > until:
                raise _TooLong

        try:
            self._evaluate(self.config.eval_episodes, self.config.seed + 100_000, check)
        except _TooLong:
            self.line.say(
                f"It was given up after {limit:g} s: {self.config.eval_episodes} episodes side by side take longer. "
                "Those that follow, and the last, will too; fewer episodes (--eval-episodes) or a shorter limit "
                "(--time-limit) shorten them."
            )

    def _evaluate(self, episodes: int, seed: int, check: Callable[[], None]) -> Evaluation:
        recipe, state, done = self.recipe, self.state, self.count
        self._show("evaluating")
        found = self._evaluate_together(episodes, seed + done, check)
        evaluation = dataclasses.replace(found, agent_steps=state.agent_steps, updates=state.updates)
        state.evaluations.append(evaluation)
        returns = {"evaluation/return": evaluation.mean_return} if evaluation.returns else {}
        statistics = {f"evaluation/{name}": value for name, value in evaluation.statistics.items()}
        self.directory.logs.log({**returns, **statistics}, done)
        self.line.say(f"evaluation after {done} {recipe.clock.unit}: {evaluation}")
        return evaluation

    def _draw(self) -> None:
        """The learning curve so far, if there is one, by the first process."""
        if self.state.evaluations and ranks.rank() == 0:
            draw_evaluations(self.directory.path / CURVE_FILE, self.recipe, self.config, self.state.evaluations)
        self._drawn = time.monotonic()

    def _evaluate_together(self, episodes: int, seed: int, check: Callable[[], None]) -> Evaluation:
        """Each process plays its part of the episodes; what stops one of them stops all."""
        found: Evaluation | _TooLong | Interrupted | None = None
        try:
            if own := ranks.part(episodes):
                found = self.recipe.evaluate(self.config, self.state.model, own, ranks.process_seed(seed), check)
        except (_TooLong, Interrupted) as stopped:
            found = stopped
        parts = ranks.gathered(found)
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return united([part for part in parts if isinstance(part, Evaluation)])

    def _target_reached(self) -> bool:
        """Whether an evaluation of a model that had learned had the return that ends the run."""
        target = self.config.target_return
        learned = (evaluation for evaluation in self.state.evaluations if evaluation.updates and evaluation.returns)
        return target is not None and any(evaluation.mean_return >= target for evaluation in learned)

    # ------------------------------------------------------------------ ends

    def finish(self) -> None:
        """The last evaluation, checkpoint and result of a run that came to its end, unless they are there."""
        state, config = self.state, self.config
        final = self._last_evaluation()
        if final is not None and self.directory.ended_with(Counts(state.agent_steps, state.updates), config.steps):
            self.line.say(f"The run has come to its end before. Last evaluation: {final}.{self._way_further()}")
            return
        self._warn()
        spent = state.profile.seconds()
        final = final or self._evaluate(config.final_eval_episodes, config.seed + 10**9, self.interruption.check_alone)
        self.save()
        self._draw()
        if ranks.rank():
            return
        self.directory.write_result(_result(self.recipe, state, final))
        if spent and (steps := self.count - self._first):
            write_json(self.directory.path / PROFILE_FILE, {self.recipe.clock.name: steps, "seconds": spent})
            self.line.say(profile_text(spent, steps))
        if took := self._compiling.cost():
            self.line.say(took)
        self.line.say(f"Trained for {state.training_seconds:.0f} s. Last evaluation: {final}.")

    def _last_evaluation(self) -> Evaluation | None:
        """The one that the run's end was told with, if it was made: no other follows the last step or the target."""
        made, clock = self.state.evaluations, self.recipe.clock
        counts = [clock.count(evaluation) for evaluation in made[-2:]]
        if not made or counts[-1] != self.count:
            return None
        return made[-1] if self.count >= self.config.steps or counts == [self.count] * 2 else None

    def _way_further(self) -> str:
        if self.recipe.length_counts or self._target_reached():
            return ""
        return f" Take it further: {typed('resume', self.directory.path, '--steps', 2 * self.config.steps)}"

    def save_interrupted(self) -> None:
        """A checkpoint of a run that was asked to stop, and how to go on."""
        self.save()
        self._draw()
        done = f"{self.count} {self.recipe.clock.unit}"
        self.line.say(f"Stopped and saved after {done}. Go on: {self.directory.resume_command}")

    def with_remedy(self, error: FloatingPointError) -> FloatingPointError:
        """The error with where the run stood, and with the command that goes on if there is a checkpoint."""
        return FloatingPointError(f"{self._where}: {error} {self._what_is_saved()}")

    def with_way_on(self, error: ranks.Lost) -> ranks.Lost:
        """Likewise, of another process that is gone, unless that one said it all."""
        return error if error.told else ranks.Lost("", f"{self._where}: {error} {self._what_is_saved()}")

    @property
    def _where(self) -> str:
        return f"After {self.state.agent_steps} steps and {self.state.updates} updates"

    def _what_is_saved(self) -> str:
        """What a person whose run ended by an error goes on from."""
        directory, clock = self.directory, self.recipe.clock
        made = [clock.count(counts_of(folder)) for folder in directory.checkpoints.all()]
        if not made:
            return f"There is no checkpoint yet: remove {directory.path} and start again."
        earlier = f", from an earlier checkpoint with --from {made[-2]}" if len(set(made)) > 1 else ""
        return f"Go on: {directory.resume_command}{earlier}"

    # ------------------------------------------------------------------ for people

    def _show(self, phase: str) -> None:
        state, source = self.state, self.state.source
        shown = {"return": _recent_return(state)} if source.episode_returns else {}
        if state.evaluations and state.evaluations[-1].returns:
            shown["evaluation"] = state.evaluations[-1].mean_return
        shown |= {"replay GB": source.bytes / 1e9, **source.measures(state.training_seconds)}
        metrics = self._read_metrics()
        shown |= {name: metrics[key] for name, key in self.recipe.shown.items() if key in metrics}
        self.line.show(phase, self.count, shown)

    def _logged(self) -> dict[str, float]:
        state = self.state
        losses = {f"update/{name}": value for name, value in self._read_metrics().items()}
        returns = {"collection/return": _recent_return(state)} if state.source.episode_returns else {}
        measures = state.source.measures(state.training_seconds)
        collection = {f"collection/{name}": value for name, value in measures.items()}
        return {**losses, **returns, **collection, "collection/updates": float(state.updates)}

    def _read_metrics(self) -> dict[str, float]:
        """Those of the last update. Raises FloatingPointError if a loss is not finite."""
        metrics = {name: float(value) for name, value in self.state.metrics.items()}
        check_read(metrics)
        return metrics

    def _warn(self) -> None:
        """Says what the recipe warns of, unless it was the last thing said."""
        warning = self.recipe.warn(self.state)
        if warning and warning != self._warned:
            self.line.say(warning)
        self._warned = warning or self._warned


def _recent_return(state: RunState[ConfigT, ModelT]) -> float:
    recent = state.source.episode_returns[-10:]
    return sum(recent) / len(recent)


def _result(recipe: Recipe[ConfigT, ModelT, StateT], state: StateT, final: Evaluation) -> dict[str, object]:
    config = state.config
    return {
        "recipe": recipe.name,
        "config": {name: value for name, value in dataclasses.asdict(config).items() if name != "run_directory"},
        "model_config": state.model.config.to_json(),
        "parameters": state.model.num_parameters(),
        "agent_steps": state.agent_steps,
        "environment_steps": state.agent_steps * config.repeat,
        "updates": state.updates,
        "processes": ranks.count(),
        "training_seconds": round(state.training_seconds, 1),
        "clock": recipe.clock.name,
        "evaluations": [dataclasses.asdict(evaluation) for evaluation in state.evaluations],
        "final_returns": final.returns,
        "final_mean_return": final.mean_return if final.returns else None,
    }
