"""Batches of several workers, in any order: rows stay linked where streams are told, and are refused where not."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import Collector, MultiAsyncCollector
from torchrl.envs import InitTracker, SerialEnv, TransformedEnv
from torchrl.envs.libs.gym import GymEnv

from worldloom_rl.data import Arrivals, Replay, StreamLabel
from worldloom_rl.keys import STREAM
from worldloom_rl.world_model import Latent  # noqa: F401  # the package is imported in the workers too

LATENT = ("latent", "deterministic")
EPISODE = 7  # steps


def scripted(identity: int, first: int, steps: int) -> TensorDict:
    """[steps] transitions from the step `first` of a stream on; an observation is [identity, step of the stream]."""
    step = torch.arange(first, first + steps).float()
    done = (step.long() + 1).remainder(EPISODE).eq(0).unsqueeze(-1)

    def seen(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(at, identity), at], -1)

    # After an end the next observation is another episode's first one; here its step goes on to count.
    return TensorDict(
        {
            "observation": seen(step), "action": step.unsqueeze(-1),
            "is_init": step.remainder(EPISODE).eq(0).unsqueeze(-1),
            LATENT: step.unsqueeze(-1) + 100 * identity,
            STREAM: torch.full((steps,), identity),
            "next": {
                "observation": seen(step + 1), "reward": step.unsqueeze(-1), "done": done, "terminated": done,
                "truncated": torch.zeros_like(done),
            },
        },
        [steps],
    )  # fmt: skip


def in_any_order(identities: int, batches: int) -> list[TensorDict]:
    """Batches of 1 to 5 transitions of one stream each, in an order that no worker keeps."""
    generator = torch.Generator().manual_seed(0)
    reached, made = [0] * identities, []
    for _ in range(batches):
        identity = int(torch.randint(identities, (), generator=generator))
        steps = int(torch.randint(1, 6, (), generator=generator))
        made.append(scripted(identity, reached[identity], steps))
        reached[identity] += steps
    return made


def check_windows(windows: TensorDictBase) -> None:
    """Each window has one identity, and its steps rise by one but where an episode begins."""
    identity, step = windows["observation"].unbind(-1)
    assert (identity == identity[:, :1]).all()
    begins = windows["is_init"][:, 1:].squeeze(-1)
    assert ((step.diff(dim=1) == 1) | begins).all()


def test_batches_out_of_order_keep_their_streams() -> None:
    arrivals = Arrivals(["observation"], latent_keys=[LATENT])
    replay = Replay(capacity=2000, window=8, batch_size=256, by="window", generator=torch.Generator().manual_seed(0))
    for batch in in_any_order(3, 200):
        replay.extend(arrivals(batch))
    windows = replay.sample()
    check_windows(windows)
    assert set(windows["observation"][:, 0, 0].tolist()) == {0.0, 1.0, 2.0}
    # Latents that came with a later batch stand in their own rows; of terminal rows and of a stream's last they are 0.
    identity, step = windows["observation"][:, :-1].unbind(-1)
    has = ~windows["terminated"][:, :-1].squeeze(-1)
    assert torch.equal(windows[LATENT][:, :-1].squeeze(-1)[has], (step + 100 * identity)[has])


def test_transitions_of_several_streams_in_one_flat_batch_are_sorted_by_stream() -> None:
    pieces = [scripted(identity, 0, 4) for identity in (2, 0, 1)]
    mixed = torch.stack(pieces, 1).reshape(-1)  # step by step, one stream after the other
    rows = Arrivals(["observation"])(mixed).rows
    assert rows[STREAM].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert rows["observation"][:, 1].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0] * 3


def test_told_by_place_or_by_number_the_rows_are_the_same() -> None:
    told = torch.stack([scripted(0, 0, 12), scripted(1, 0, 12)])
    by_number, by_place = (Arrivals(["observation"], latent_keys=[LATENT]) for _ in range(2))
    for part in (told[:, :5], told[:, 5:]):
        first, second = by_number(part), by_place(part.exclude(STREAM))
        assert (first.rows == second.rows).all()
        assert (first.late is None) == (second.late is None)
        assert first.late is None or (first.late == second.late).all()


def test_untold_streams_that_are_mixed_are_refused_with_the_remedy() -> None:
    arrivals = Arrivals(["observation"])
    arrivals(scripted(0, 0, 3).exclude(STREAM))
    with pytest.raises(ValueError, match=r"go on from another 'observation'.*StreamLabel"):
        arrivals(scripted(1, 3, 3).exclude(STREAM))
    arrivals(scripted(0, 3, 3).exclude(STREAM))  # nothing was taken from the refused batch


def test_untold_streams_of_another_number_are_refused() -> None:
    arrivals = Arrivals(["observation"])
    arrivals(scripted(0, 0, 3).exclude(STREAM))
    with pytest.raises(ValueError, match=r"2 streams and had 1.*StreamLabel"):
        arrivals(torch.stack([scripted(0, 3, 3), scripted(1, 0, 3)]).exclude(STREAM))


def test_after_a_resume_a_stream_goes_on_that_a_batch_before_did_not_bring() -> None:
    before, after = Arrivals(["observation"]), Arrivals(["observation"])
    for identity in (0, 1):
        before(scripted(identity, 0, 3))
    after.goes_on = before.goes_on
    for identity in (0, 1):
        assert after(scripted(identity, 3, 2)).rows["observation"][:, 1].tolist() == [4.0, 5.0]


@pytest.mark.parametrize("number", [-1, 2**16, 0.5])
def test_numbers_that_no_stream_can_have_are_refused(number: float) -> None:
    batch = scripted(0, 0, 3)
    batch[STREAM] = torch.full((3,), number)
    with pytest.raises(ValueError, match="whole numbers from 0"):
        Arrivals(["observation"])(batch)
    with pytest.raises(ValueError, match="numbered from 0"):
        StreamLabel(-1)


def labelled(first: int, count: int = 2) -> TransformedEnv:
    env = TransformedEnv(SerialEnv(count, lambda: GymEnv("Pendulum-v1")), InitTracker())
    return env.append_transform(StreamLabel(first))


def test_a_labelled_environment_tells_its_streams_in_a_stock_collector() -> None:
    collector = Collector(labelled(4), None, frames_per_batch=6, total_frames=12)
    arrivals = Arrivals(["observation"])
    seen = [arrivals(batch).rows[STREAM].unique().tolist() for batch in collector]
    collector.shutdown()
    assert seen == [[4, 5], [4, 5]]


def make_first() -> TransformedEnv:
    return labelled(0)


def make_second() -> TransformedEnv:
    return labelled(2)


@pytest.mark.process
@pytest.mark.usefixtures("fork_server")
@pytest.mark.filterwarnings("ignore:Creating .* which inherits from WeightUpdaterBase is deprecated:DeprecationWarning")
def test_an_asynchronous_collectors_windows_stay_in_their_streams_and_are_refused_untold() -> None:
    def collect(told: bool) -> Replay:
        collector = MultiAsyncCollector([make_first, make_second], None, frames_per_batch=8, total_frames=800)
        arrivals = Arrivals(["observation"])
        replay = Replay(capacity=2000, window=8, batch_size=64, by="window")
        try:
            for batch in collector:
                replay.extend(arrivals(batch if told else batch.exclude(STREAM)))
        finally:
            collector.shutdown()
        return replay

    windows = collect(told=True).sample()
    moved = windows["observation"].diff(dim=1).norm(dim=-1)
    begins = windows["is_init"][:, 1:].squeeze(-1)
    assert moved[~begins].max() < 2.0  # cosine, sine and speed of a pendulum move by less in a step
    with pytest.raises(ValueError, match="go on from another 'observation'"):
        collect(told=False)
