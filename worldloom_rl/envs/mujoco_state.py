"""Where a MuJoCo simulation stands, of gymnasium and of DeepMind Control."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import mujoco


def simulation_of(value: object) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
    """MjModel and MjData of an object that owns a simulation: a gymnasium MujocoEnv or DeepMind Control's Physics."""
    mujoco = sys.modules.get("mujoco")
    model, data = getattr(value, "model", None), getattr(value, "data", None)
    if mujoco is None or model is None or data is None:
        return None
    model, data = getattr(model, "ptr", model), getattr(data, "ptr", data)
    return (model, data) if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None


def simulation_state(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    mujoco = sys.modules["mujoco"]
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(model, kind))
    mujoco.mj_getState(model, data, state, kind)
    return state


def restore_simulation(model: mujoco.MjModel, data: mujoco.MjData, state: np.ndarray) -> None:
    mujoco = sys.modules["mujoco"]
    mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(model, data)
