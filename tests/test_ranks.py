"""Two processes with half a batch each learn what one learns from all of it, and not so without any one mechanism."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from family_work import make_rows, make_update
from torch import Tensor

from worldloom_rl import ranks
from worldloom_rl.noise import GeneratorNoise
from worldloom_rl.pretrained.registry import find_preset

UPDATES = 3
HALF = 13  # rows of a process; no other axis of these models is a multiple of it
SMALL = {"deterministic": 16, "hidden": 8, "groups": 2, "classes": 4, "blocks": 2, "units": 8, "horizon": 2,
         "depth": 2, "imagination_starts": 2, "num_bins": 21}  # fmt: skip
FEW = {"vocabulary": 8, "depth": 2, "width": 16, "attention_heads": 2, "units": 8, "horizon": 2,
       "tokenizer_updates": 0, "behavior_start": 0}  # fmt: skip  # tokeniser, dynamics and behaviour learn at once
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tdmpc2": ("tdmpc2", {}),
    "dreamerv3": ("dreamerv3", {"warmup": 0, **SMALL}),
    "sigreg": ("jepa", {"regularizer": "sigreg", "sigreg_coef": 1.0, "warmup": 0.0}),
    "vcreg": ("jepa", {"regularizer": "vcreg", "warmup": 0.0}),
    "tokens": ("tokens", {"quantizer": "vq", **FEW}),
    "averaged codes": ("tokens", {"quantizer": "vq-ema", **FEW}),
}
# What is left out → what stands in its place. The kinds are those that it is there for.
WITHOUT: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "gather": ("worldloom_rl.ranks.gather", lambda x: x.detach().flatten(), ("tdmpc2", "dreamerv3", "tokens")),
    "mean": ("worldloom_rl.ranks.mean", lambda x: x, ("sigreg", "vcreg")),
    "backward of the mean": ("worldloom_rl.ranks._Mean.backward", lambda context, x: x, ("sigreg", "vcreg")),
    "one draw of directions": ("worldloom_rl.ranks.first", lambda x: x, ("sigreg",)),
    "average": ("worldloom_rl.ranks.average_gradients", lambda parameters: None, tuple(KINDS)),
    "sums of codes": ("worldloom_rl.latents.quantizers.ranks", SimpleNamespace(count=lambda: 1), ("averaged codes",)),
}


class PartNoise(GeneratorNoise):
    """The draws of one process: its rows of what is drawn for the whole batch. Rank 1's draws without rows differ."""

    def __init__(self, rank: int) -> None:
        super().__init__(torch.Generator().manual_seed(1))
        self.rank = rank

    def _part(self, name: str, draw: Any, shape: Sequence[int]) -> Tensor:
        axes = [axis for axis, size in enumerate(shape) if size and size % HALF == 0]
        if not axes:
            drawn: Tensor = draw(tuple(shape))
            return drawn.flip(0) if name == "directions" and self.rank else drawn
        axis = axes[0]
        whole = draw((*shape[:axis], 2 * shape[axis], *shape[axis + 1 :]))
        return whole.chunk(2, axis)[self.rank].contiguous()

    def normal(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        draw = super().normal
        return self._part(name, lambda whole: draw(name, whole, like), shape)

    def uniform(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        draw = super().uniform
        return self._part(name, lambda whole: draw(name, whole, like), shape)

    def exponential(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        draw = super().exponential
        return self._part(name, lambda whole: draw(name, whole, like), shape)

    def integers(self, name: str, high: int, shape: Sequence[int], like: Tensor) -> Tensor:
        draw = super().integers
        return self._part(name, lambda whole: draw(name, high, whole, like), shape)

    def keep(self, name: str, shape: Sequence[int], rate: float, like: Tensor) -> Tensor:
        draw = super().keep
        return self._part(name, lambda whole: draw(name, whole, rate, like), shape)


def learned(kind: str, rank: int | None) -> dict[str, Tensor]:
    """Weights, running statistics and gradients' scales after three updates, of all rows or of a rank's half."""
    family, changes = KINDS[kind]
    found, config = find_preset(f"{family}:tiny")
    torch.manual_seed(0)
    model: Any = found.model_class(type(config)(**{**config.to_json(), **changes}), *found.model_class.default_specs())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter) * parameter.requires_grad)
        if family == "tdmpc2":  # fresh Qs are so alike that the scale stays at its least
            last = model.behavior.q_ensemble.layers[-1].weight
            last.copy_(0.5 * torch.randn_like(last))
    if family == "dreamerv3":
        update = make_update(model)  # LaProp takes weights in single precision, and steps those that became double
        model.double()
    else:
        update = make_update(model.double())
    model.eval()
    noise = GeneratorNoise(torch.Generator().manual_seed(1)) if rank is None else PartNoise(rank)
    for seed in range(UPDATES):
        torch.manual_seed(seed)
        rows = make_rows(model, 2 * HALF, 4)
        rows = rows.apply(lambda value: value.double() if value.is_floating_point() else value)
        # vector-quantize-pytorch sums up vectors in single precision, whatever the model's.
        with mock.patch.object(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32)):
            update(rows if rank is None else rows.chunk(2)[rank].clone(), noise)
    values = {name: value.clone() for name, value in model.state_dict().items()}
    if family == "tdmpc2":
        values["scale"] = update.args[2].scale.value.clone()  # type: ignore[attr-defined]
    return values


def work(rank: int, folder: Path, asked: Connection) -> None:
    """Answers (kind, what is left out) with what this rank learned, or with why it could not."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    while (case := asked.recv()) is not None:
        kind, left = case
        try:
            with mock.patch(*WITHOUT[left][:2]) if left else nullcontext():
                values = learned(kind, rank)
            asked.send({name: value.numpy() for name, value in values.items()})
        except Exception:  # noqa: BLE001  # of whatever kind: the test shows it
            asked.send(traceback.format_exc())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Connection]]:
    """The ends of two processes, forks of this one: nothing is imported again."""
    folder, forks, ends = tmp_path_factory.mktemp("ranks"), [], []
    context = multiprocessing.get_context("fork")
    for rank in range(2):
        here, there = context.Pipe()
        forks.append(context.Process(target=work, args=(rank, folder, there), daemon=True))
        forks[-1].start()
        ends.append(here)
    yield ends
    for end, fork in zip(ends, forks, strict=True):
        end.send(None)
        fork.join(10)
        fork.kill()


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Tensor]]:
    """What one process learns, by kind."""
    return {}


def difference(kind: str, left: str, pair: list[Connection], alone: dict[str, dict[str, Tensor]]) -> tuple[float, bool]:
    """The largest one between one process and two, and whether the two are alike byte for byte."""
    if kind not in alone:
        alone[kind] = learned(kind, None)
    for end in pair:
        end.send((kind, left))
    told = []
    for end in pair:
        assert end.poll(60), "no answer within a minute"
        told.append(end.recv())
    assert not any(isinstance(each, str) for each in told), told
    whole, (one, other) = alone[kind], told
    assert whole.keys() == one.keys()
    far = [abs(one[name] - value.numpy()).max() for name, value in whole.items() if value.is_floating_point()]
    return float(max(far)), all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_what_one_process_learns(
    kind: str, pair: list[Connection], alone: dict[str, dict[str, Tensor]]
) -> None:
    largest, alike = difference(kind, "", pair, alone)
    assert largest < 1e-7
    assert alike


@pytest.mark.parametrize(("kind", "left"), [(kind, left) for left, found in WITHOUT.items() for kind in found[2]])
def test_without_a_mechanism_they_learn_something_else(
    kind: str, left: str, pair: list[Connection], alone: dict[str, dict[str, Tensor]]
) -> None:
    largest, _ = difference(kind, left, pair, alone)
    assert largest > 1e-6


def test_one_process_asks_nobody() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert ranks.mean(x) is x
    assert ranks.first(x) is x
    assert ranks.gathered("a") == ["a"]
    assert (ranks.count(), ranks.rank(), ranks.any_of(True), ranks.any_of(False)) == (1, 0, True, False)
    assert torch.equal(ranks.gather(x), x.detach().flatten())
    assert ranks.share(7, "batch_size") == 7
