"""No hot loop waits for the device: nothing on the way reads a number out of a tensor or makes one out of numbers."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from family_work import FAMILIES, ROWS, acting_row, imagined, make_model, make_policy, make_rows, make_update
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.envs.utils import ExplorationType, set_exploration_type

from worldloom_rl.models import dreamerv3, jepa, tdmpc2
from worldloom_rl.noise import GeneratorNoise

Call = Callable[[], object]


class CountReads(TorchDispatchMode):
    """Counts where a tensor's value becomes a Python number or decides a shape: a GPU would be waited for there."""

    reading = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal")
    indexing = ("index", "index_put", "index_put_")

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masks = name in self.indexing and any(index is not None and index.dtype == torch.bool for index in args[1])
        if masks or (name in self.reading and not _counts_steps()):
            self.reads.append(name)
        return function(*args, **(kwargs or {}))


def _counts_steps() -> bool:
    """Whether an optimiser reads how many steps it made, which it keeps on the CPU wherever the weights are."""
    return "_get_value" in {frame.name for frame in traceback.extract_stack(limit=8)}


class AsOnGPUs(TorchFunctionMode):
    """F.one_hot as a GPU has it: only on the CPU it looks whether its classes exist. Counts what a GPU is sent."""

    sending = (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor)

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.one_hot:
            index, classes = args
            return (index.unsqueeze(-1) == torch.arange(classes)).long()
        sends = function is torch.Tensor.new_tensor or (kwargs or {}).get("device", "cpu") != "cpu"
        if function in self.sending and sends:
            self.sent.append(function.__name__)
        return function(*args, **(kwargs or {}))


def update(family: str, device: str) -> Call:
    model = make_model(family)
    batch = make_rows(model, *ROWS[family]).to(device)
    call = make_update(model.to(device))
    return lambda: call(batch, None)


def plan(family: str, device: str) -> Call:
    model = make_model(family).to(device)
    options = {"num_samples": 16, "num_elites": 4, "iterations": 2}
    makers = {
        "dreamerv3": partial(dreamerv3.make_planner, horizon=3, num_policy_trajectories=2),
        "tdmpc2": partial(tdmpc2.make_planner, num_policy_trajectories=2),
    }
    planner = makers.get(family, jepa.make_planner)(model, **options)
    latent = model.initial_latent((2,))
    previous = torch.zeros(2, planner.horizon, model.action_space.width, device=device)
    return lambda: planner.plan(latent, previous, GeneratorNoise(), explore=True)


def imagination(family: str, device: str) -> Call:
    model = make_model(family)
    start = make_rows(model, 4).select(*model.latent_keys).to(device)
    model.to(device)
    return lambda: imagined(model, start)


def act(family: str, device: str) -> Call:
    model = make_model(family)
    row = acting_row(model, make_policy(model)).to(device)
    policy = make_policy(model.to(device))

    def call() -> None:
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            policy(row.copy())

    return call


MAKERS = {"update": update, "plan": plan, "imagination": imagination, "acting": act}
PLANNING = ("dreamerv3", "frozen_jepa", "jepa", "tdmpc2")
READS = {  # on the CPU and elsewhere; none where nothing is said
    # Whether all losses are finite.
    ("update", "dreamerv3"): (1, 1),
    ("update", "jepa"): (1, 1),
    ("update", "tdmpc2"): (1, 1),
    ("update", "tokens"): (1, 1),
    # Whether an episode begins, whose goal is to be encoded; a GPU encodes it always.
    ("acting", "frozen_jepa"): (1, 0),
    ("acting", "jepa"): (1, 0),
    ("acting", "vjepa2"): (1, 0),
}
WORK = [(work, family) for work in MAKERS for family in (PLANNING if work == "plan" else FAMILIES)]


def make(work: str, family: str, device: str) -> Call:
    if family in ("frozen_jepa", "vjepa2") and find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    if family == "tokens" and find_spec("vector_quantize_pytorch") is None:
        pytest.skip("vector-quantize-pytorch is not installed")
    return MAKERS[work](family, device)


@pytest.mark.parametrize(("work", "family"), WORK)
def test_hot_loops_read_no_number_out_of_a_tensor_and_send_none(work: str, family: str) -> None:
    call = make(work, family, "cpu")
    call()  # optimisers make their state
    with AsOnGPUs() as sending, CountReads() as reading:
        call()
    assert len(reading.reads) == READS.get((work, family), (0, 0))[0], reading.reads
    assert sending.sent == []


def test_a_read_is_counted() -> None:
    with CountReads() as counter:
        bool(torch.ones(1).all())
        torch.ones(2)[torch.ones(2).bool()]
    assert counter.reads == ["_local_scalar_dense", "index"]


def test_a_number_that_is_sent_is_counted() -> None:
    with AsOnGPUs() as counter:
        here = torch.ones(1)
        here.new_tensor([1.0])
        torch.tensor([1.0], device=here.device)
        torch.tensor([1.0])
    assert counter.sent == ["new_tensor", "tensor"]


@contextmanager
def nothing_waits(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raises where the host waits for the device, tensordict's own waits included."""

    def refuse(*_: object) -> None:
        raise AssertionError("the host waits for the device")

    with patch.context() as patched:
        patched.setattr(torch.cuda, "synchronize", refuse)
        patched.setattr(torch.cuda.Event, "synchronize", refuse)
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("work", "family"), [each for each in WORK if not READS.get(each, (0, 0))[1]])
def test_a_gpu_is_not_waited_for(work: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = make(work, family, "cuda")
    call()
    with nothing_waits(monkeypatch):
        call()
