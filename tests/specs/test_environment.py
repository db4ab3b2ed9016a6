"""The specs that a model takes from an environment."""

from __future__ import annotations

from torchrl.envs import Compose, GymEnv, InitTracker, SerialEnv, StepCounter, TransformedEnv

from worldloom_rl.models.tdmpc2 import TDMPC2, TDMPC2Config, make_planner
from worldloom_rl.specs.environment import specs_of


def test_specs_of_a_batched_environment_are_those_of_one_environment():
    single = GymEnv("Pendulum-v1")
    batched = SerialEnv(3, lambda: GymEnv("Pendulum-v1"))
    for ours, theirs in zip(specs_of(batched), specs_of(single), strict=True):
        assert dict(ours.items(True, True)) == dict(theirs.items(True, True))  # devices of the Composite differ
    observation, action = specs_of(batched)
    assert (observation["observation"].shape, action["action"].shape) == ((3,), (1,))
    assert (observation.shape, action.shape) == ((), ())


def test_specs_of_an_environment_leave_out_what_transforms_and_policies_add():
    plain = GymEnv("Pendulum-v1")
    planner = make_planner(TDMPC2(TDMPC2Config.from_size("tiny"), *specs_of(plain)))
    transformed = TransformedEnv(
        GymEnv("Pendulum-v1"), Compose(StepCounter(), InitTracker(), planner.make_tensordict_primer())
    )
    assert ("planner", "mean") in transformed.observation_spec.keys(True, True)
    assert specs_of(transformed) == specs_of(plain)
