"""Windows drawn straight from recorded episodes: what is cut, what is refused, and where draws go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from worldloom_rl.data import Episodes, Windows
from worldloom_rl.training.recorded_windows import RecordedWindows


class Counted(Episodes):
    """Two episodes of 5 rows whose actions hold the row's number, and so do observations, with zeros behind."""

    def __init__(self, source: str = "made up", padding: float = 0.0) -> None:
        self.source, self.padding = source, padding
        self.lengths, self.tasks = torch.tensor([5, 5]), torch.zeros(2, dtype=torch.int64)
        self.observation_spec = Composite(observation=Unbounded((4,)))
        self.action_spec = Composite(action=Bounded(-1.0, 1.0, (3,)))

    def rows(self, index: Tensor) -> TensorDict:
        number = index.unsqueeze(-1).float()
        observation = torch.cat([number, number, *2 * [torch.full_like(number, self.padding)]], -1)
        rows = TensorDict({"observation": observation, "previous_action": number.expand(*index.shape, 3).clone()})
        rows.batch_size = index.shape
        return rows

    @property
    def bytes(self) -> int:
        return 280

    def files(self) -> Sequence[Path]:
        return ()


def made(
    episodes: Episodes, observed: int = 2, acts: int = 1, key: str = "observation", reach: float = 1.0
) -> RecordedWindows:
    windows = Windows(episodes, window=3, batch_size=8, generator=torch.Generator().manual_seed(0))
    specs = Composite({key: Unbounded((observed,))}), Composite(action=Bounded(-reach, reach, (acts,)))
    return RecordedWindows(windows, *specs)


def test_padding_of_wider_tasks_is_left_out() -> None:
    source = made(Counted())
    batch = source.sample()
    assert batch["observation"].shape == (8, 3, 2)
    assert batch["previous_action"].shape == (8, 3, 1)
    assert torch.equal(batch["observation"][..., 0].diff(dim=1), torch.ones(8, 2))
    assert (source.rows, source.bytes, source.collects, source.collect()) == (10, 280.0, False, None)


@pytest.mark.parametrize(
    ("episodes", "form", "message"),
    [
        (
            Counted(),
            {"reach": 2.0},
            r"column 0 of 'action' is declared to be in \[-1, 1\], but the environment takes \[-2, 2\]",
        ),
        (Counted(padding=0.5), {}, "has 4 numbers under 'observation', and those behind the 2 .* are not all zero"),
        (
            Counted(),
            {"observed": 5},
            r"has \(4,\) of torch.float32 under 'observation', but .* observes \(5,",
        ),
        (Counted(), {"acts": 4}, r"has \(3,\) of torch.float32 under 'action', but the environment takes \(4,"),
        (Counted(), {"key": "state"}, r"made up has no \['state'\], which the environment observes"),
    ],
)
def test_rows_that_are_not_what_the_model_reads_are_refused(
    episodes: Episodes, form: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(episodes, **form)  # type: ignore[arg-type]


def test_draws_go_on_where_they_were_saved_and_other_episodes_are_refused(tmp_path: Path) -> None:
    source = made(Counted())
    source.sample()
    saved = source.save(tmp_path)
    expected = source.sample()
    again = made(Counted())
    again.load(tmp_path, saved, seed=0)
    assert torch.equal(again.sample()["observation"], expected["observation"])
    longer = Counted("other")
    longer.lengths = torch.tensor([5, 6])
    with pytest.raises(ValueError, match="other holds other episodes than when the run began"):
        made(longer).load(tmp_path, saved, seed=0)
