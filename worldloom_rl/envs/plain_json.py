"""Arrays, and the states of random generators, as plain JSON and back, bit for bit."""

from __future__ import annotations

import base64

import numpy as np

from worldloom_rl.config import Json


def encode(array: np.ndarray) -> dict[str, Json]:
    content = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "content": content}


def decode(encoded: Json) -> np.ndarray:
    content = base64.b64decode(encoded["content"])
    array: np.ndarray = np.frombuffer(content, np.dtype(encoded["dtype"])).reshape(encoded["shape"]).copy()
    return array


def plain(state: Json) -> Json:
    """The state of a random generator, its arrays encoded."""
    if isinstance(state, dict):
        return {name: plain(part) for name, part in state.items()}
    return {"array": encode(state)} if isinstance(state, np.ndarray) else state


def unplain(state: Json) -> Json:
    if isinstance(state, dict):
        return decode(state["array"]) if set(state) == {"array"} else {k: unplain(part) for k, part in state.items()}
    return state
