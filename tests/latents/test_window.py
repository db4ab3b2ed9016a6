"""The left-aligned window against a list of frames that grows and slides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worldloom_rl.latents.window import Window, choose, first_frame, sequence_windows
from worldloom_rl.models.jepa.predictor import ConditionedPredictor

SIZE, TOKENS, DIM, ACTION = 3, 2, 5, 4


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_frames_and_the_actions_between_them_stand_at_the_left(batch: tuple[int, ...]) -> None:
    frames, actions = draws(6, *batch, TOKENS, DIM), draws(6, *batch, ACTION, seed=1)
    window = first_frame(frames[0], SIZE, ACTION)
    for step in range(1, 6):
        window = window.leaving(actions[step - 1]).arriving(frames[step])
        first = max(0, step - SIZE + 1)
        count = step - first + 1
        assert (window.length == count).all()
        assert torch.equal(window.frames[..., :count, :, :], frames[first : step + 1].movedim(0, -3))
        assert torch.equal(window.actions[..., : count - 1, :], actions[first:step].movedim(0, -2))
        assert torch.equal(window.read(window.frames), frames[step])
        other = window.with_last(frames[0])
        assert torch.equal(other.read(other.frames), frames[0])


def test_windows_of_different_lengths_go_on_side_by_side() -> None:
    frames, actions = draws(5, 2, TOKENS, DIM), draws(5, 2, ACTION, seed=1)
    window = first_frame(frames[0], SIZE, ACTION)
    for step in range(1, 5):
        arriving = window.leaving(actions[step - 1]).arriving(frames[step])
        fresh = first_frame(frames[step], SIZE, ACTION)
        window = choose(torch.tensor([False, step == 3]), fresh, arriving)
    assert window.length.tolist() == [3, 2]
    assert torch.equal(window.frames[0], frames[2:5, 0])
    assert torch.equal(window.frames[1, :2], frames[3:5, 1])
    assert torch.equal(window.actions[1, 0], actions[3, 1])


def test_the_windows_of_a_sequence_are_those_of_its_steps() -> None:
    batch, time = 4, 7
    frames, actions = draws(batch, time, TOKENS, DIM), draws(batch, time, ACTION, seed=1)
    starts = torch.zeros(batch, time, dtype=torch.bool)
    starts[1, 3] = starts[2, 5] = starts[2, 6] = starts[3, 0] = True
    together = sequence_windows(frames, actions, starts, SIZE)
    window = first_frame(frames[:, 0], SIZE, ACTION)
    for step in range(time):
        if step:
            arriving = window.leaving(actions[:, step - 1]).arriving(frames[:, step])
            window = choose(starts[:, step], first_frame(frames[:, step], SIZE, ACTION), arriving)
        for found, expected in zip(together, window, strict=True):
            assert torch.equal(found[:, step], expected)


@pytest.mark.parametrize("context", [1, 3])
def test_a_causal_predictor_on_the_window_rolls_out_as_on_a_list_that_grows_and_slides(context: int) -> None:
    torch.manual_seed(0)
    predictor = ConditionedPredictor(SIZE, DIM, DIM, layers=2, heads=1, head_width=4, hidden=8)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        frames, actions = list(draws(context, 6, DIM)), draws(context + 6, 6, ACTION + 1, seed=1)
        window = first_frame(frames[0].unsqueeze(-2), SIZE, ACTION + 1)
        for step in range(1, context):
            window = window.leaving(actions[step - 1]).arriving(frames[step].unsqueeze(-2))
        # What stands to the right of the valid frames must not matter.
        right = torch.arange(SIZE) >= window.length.unsqueeze(-1)
        window = Window(window.frames + 1e3 * right[..., None, None], window.actions, window.length)
        for step in range(context - 1, context + 5):
            seen = slice(max(0, step - SIZE + 1), step + 1)
            expected = predictor(torch.stack(frames[seen], 1), actions[seen].transpose(0, 1))[:, -1]
            window = window.leaving(actions[step])
            tokens = window.read(predictor(window.frames.squeeze(-2), window.actions).unsqueeze(-2))
            torch.testing.assert_close(tokens.squeeze(-2), expected, rtol=1e-4, atol=1e-5)
            window = window.arriving(tokens)
            frames.append(expected)
