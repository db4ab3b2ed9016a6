"""Compiling a model's steps with torch.compile, where the machine can: one step each, never an unrolled horizon."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn

from worldloom_rl.world_model import WorldModel

_COMPILERS = ("g++", "clang++", "c++")


@runtime_checkable
class Compilable(Protocol):
    """A model that names the parts of its steps."""

    def step_modules(self) -> list[nn.Module]:
        """Modules over tensors that one step is made of; their forward is compiled in place."""


@dataclass(frozen=True)
class Gains:
    """What compiling takes off the time of a family's parts, as shares of it, where somebody measured that.

    Attributes:
        build: seconds of wall time that it takes.
        largest: number of parameters up to which it holds; of larger models more is matrix products, which stay.
    """

    acting: float = 0.0
    update: float = 0.0
    build: float = 0.0
    largest: int = 0


class Built(NamedTuple):
    """What compiling has taken in this process so far."""

    seconds: float  # of wall time
    graphs: int


def missing_compiler(device: torch.device | str = "cpu") -> str | None:
    """Why torch.compile can't build code for this device here, for a person to read; None if it can."""
    if torch.device(device).type == "cuda":
        if importlib.util.find_spec("triton") is not None:
            return None
        return "torch.compile needs Triton on a GPU, and it is not installed"
    if sys.platform == "win32":
        names: tuple[str, ...] = (os.environ.get("CXX", "cl"),)
    else:
        names = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    if any(shutil.which(name) for name in names):
        return None
    looked_for = " or ".join(names)
    return f"torch.compile needs a C++ compiler, and {looked_for} is not on the PATH (install g++, or set CXX to one)"


def compile_modules(modules: Iterable[nn.Module]) -> None:
    """Compile each module's forward in place, as `nn.Module.compile` does; it is built when it is first called.

    Row counts are dynamic, so that acting, planning and learning share one build (a gradient, and a single row, need
    one more). A copy or a pickle of the module is not compiled. What is built is kept on disk by torch for the next
    process (TORCHINDUCTOR_CACHE_DIR).
    """
    for module in modules:
        forward = type(module).forward
        assert isinstance(forward, FunctionType)
        # torch caches by code object and gives up after eight builds of one: each module gets code of its own.
        own = FunctionType(
            forward.__code__.replace(), forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
        )
        own.__kwdefaults__ = forward.__kwdefaults__
        module._compiled_call_impl = torch.compile(MethodType(own, module), dynamic=True)  # type: ignore[assignment]


def built() -> Built:
    """What torch.compile has taken in this process so far."""
    from torch._dynamo.utils import calculate_time_spent, counters  # imported late: it takes seconds

    return Built(calculate_time_spent().get("total_wall_time", 0.0), int(counters["stats"]["unique_graphs"]))


def compile_model(model: WorldModel, device: torch.device | str = "cpu") -> str:
    """Compile what one step of the model is made of, if this machine can; says what was done, or why it is not."""
    modules = model.step_modules() if isinstance(model, Compilable) else []
    if not modules:
        return f"Not compiled: {type(model).__name__} names no modules to compile."
    if (reason := missing_compiler(device)) is not None:
        return f"Not compiled, training goes on as it is: {reason}."
    compile_modules(modules)
    return f"{len(modules)} parts of the model are compiled when they are first used, which takes a minute or so."
