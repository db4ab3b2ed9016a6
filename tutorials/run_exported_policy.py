"""Plays what `worldloom export RUN DIRECTORY` wrote, without worldloom: python run_exported_policy.py DIRECTORY."""

import json
import sys
from pathlib import Path

import gymnasium
import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
told = json.loads((folder / "policy.json").read_text())
session = onnxruntime.InferenceSession(folder / "policy.onnx")
numbers = np.random.default_rng(0)
draw = {"normal": numbers.standard_normal, "uniform": numbers.random, "exponential": numbers.standard_exponential}
options = told["environment"]
env = gymnasium.make(options["name"], max_episode_steps=options["time_limit"], **options["env_kwargs"])

for episode in range(3):
    observation, _ = env.reset(seed=episode)
    carried, first, done, total = {}, True, False, 0.0
    while not done:
        given = {}
        for port in told["inputs"]:
            name, kind, shape = port["name"], port["kind"], (1, *port["shape"][1:])
            if kind == "observation":  # one of them here; of several, each by its name
                given[name] = np.asarray(observation, port["dtype"]).reshape(shape)
            elif kind == "is_init":
                given[name] = np.full(shape, first)
            elif kind == "carried":  # zeros at the first step, where "is_init" says that they do not count
                given[name] = carried.get(port["from"], np.zeros(shape, port["dtype"]))
            else:
                given[name] = draw[kind](shape).astype(port["dtype"])
        names = [port["name"] for port in told["outputs"]]
        carried = dict(zip(names, session.run(names, given), strict=True))
        first = False
        for _ in range(options["action_repeat"]):
            observation, reward, terminated, truncated, _ = env.step(carried["action"][0])
            total, done = total + float(reward), terminated or truncated
            if done:
                break
    print(f"episode {episode}: return {total:.1f}")
