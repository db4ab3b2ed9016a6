"""The random shift against an integer crop of the padded image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from worldloom_rl.functional.augmentation import shift_images


def cropped(image: torch.Tensor, shift: torch.Tensor, pad: int) -> torch.Tensor:
    size = image.shape[-1]
    padded = F.pad(image, (pad,) * 4, mode="replicate")
    rows = [frame[:, y : y + size, x : x + size] for frame, (x, y) in zip(padded, shift.tolist(), strict=True)]
    return torch.stack(rows)


@pytest.mark.parametrize(("size", "pad"), [(64, 3), (16, 2)])
def test_every_shift_equals_the_integer_crop_up_to_the_bilinear_remainder(size, pad):
    torch.manual_seed(0)
    span = torch.arange(2 * pad + 1)
    shift = torch.cartesian_prod(span, span)
    image = torch.randint(0, 256, (len(shift), 3, size, size)).float()
    assert (shift_images(image, shift, pad) - cropped(image, shift, pad)).abs().max().item() < 5e-3  # of 255


def test_the_middle_shift_leaves_the_image_where_it_is():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(shift_images(image, torch.full((2, 2), 3)), image, rtol=0, atol=2e-5)


def test_the_first_number_moves_along_the_width():
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1.0
    moved = shift_images(image, torch.tensor([[4, 3]]))  # one pixel further in x: the content moves left
    assert moved[0, 0, 4, 3].item() == pytest.approx(1.0, abs=1e-5)
    assert moved.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_pixels_beyond_the_border_repeat_the_edge():
    image = torch.arange(4.0).expand(1, 1, 4, 4)
    moved = shift_images(image, torch.tensor([[0, 3]]))
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([0.0, 0.0, 0.0, 0.0]), atol=1e-4, rtol=0)
    moved = shift_images(image, torch.tensor([[6, 3]]))
    torch.testing.assert_close(moved[0, 0, 0], torch.tensor([3.0, 3.0, 3.0, 3.0]), atol=1e-4, rtol=0)


def test_an_oblong_image_is_refused_with_its_size():
    with pytest.raises(ValueError, match="square images, got 8 x 6"):
        shift_images(torch.zeros(1, 3, 8, 6), torch.zeros(1, 2))
