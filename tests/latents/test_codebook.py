"""Codebook latents: what holds of the codes that the golden numbers don't show, and the extra that they need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worldloom_rl.latents import CodebookLatent
from worldloom_rl.latents.quantizers import AveragedCodes, FixedGrid, LearnedCodes
from worldloom_rl.noise import GeneratorNoise, ModeNoise

KINDS = {
    "vq": LearnedCodes(7),
    "vq-ema": AveragedCodes(7),
    "fsq": FixedGrid((3, 4)),
    "fsq without layers around it": FixedGrid((3, 4, 5, 3, 3)),
}


def make(kind: str) -> CodebookLatent:
    torch.manual_seed(0)
    return CodebookLatent(4, 5, KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_the_embeddings_of_the_indices_bit_for_bit(kind: str) -> None:
    space = make(kind)
    vectors = 2 * torch.randn(2, 3, 4, 5)
    quantized = space.quantize(vectors)
    assert quantized.indices.shape == (2, 3, 4)
    assert quantized.indices.dtype == torch.int64
    assert space.spec((2, 3)).is_in({"codebook_indices": quantized.indices, "tokens": quantized.tokens.detach()})
    assert torch.equal(quantized.tokens, space.codebook[quantized.indices])
    assert space.codebook.shape == (space.vocabulary, 5)
    drawn, tokens = space.sample(torch.randn(2, 3, 4, space.vocabulary), GeneratorNoise())
    assert torch.equal(tokens, space.codebook[drawn])


@pytest.mark.parametrize("kind", ["vq", "vq-ema"])
def test_the_nearest_code_is_taken(kind: str) -> None:
    space = make(kind)
    vectors = torch.randn(6, 4, 5)
    distance = (vectors.unsqueeze(-2) - space.codebook.detach()).square().sum(-1)
    assert torch.equal(space.quantize(vectors).indices, distance.argmin(-1))


def test_finite_scalar_quantisation_rounds_each_bounded_number() -> None:
    """With odd numbers of levels L the grid is round(tanh(z) (L − 1) (1 + ε) / 2) / ⌊L / 2⌋, ε = 0.001."""
    space = CodebookLatent(4, 3, FixedGrid((3, 5, 7)))
    levels = torch.tensor([3, 5, 7])
    vectors = 2 * torch.randn(8, 4, 3)
    rounded = (torch.tanh(vectors) * (levels - 1) * 1.001 / 2).round()
    quantized = space.quantize(vectors)
    torch.testing.assert_close(quantized.tokens, rounded / (levels // 2))
    place = (rounded + levels // 2).long()
    assert torch.equal(quantized.indices, place[..., 0] + 3 * place[..., 1] + 15 * place[..., 2])
    assert quantized.errors == {}


@pytest.mark.parametrize("kind", KINDS)
def test_only_learning_moves_the_codes_and_the_library_does_not_learn_on_its_own(kind: str) -> None:
    space = make(kind).train()
    before = {name: value.clone() for name, value in space.state_dict().items()}

    def moved() -> bool:
        return any(not torch.equal(value, before[name]) for name, value in space.state_dict().items())

    vectors = torch.randn(6, 4, 5)
    first = space.quantize(vectors)
    assert not moved()
    assert torch.equal(space.quantize(vectors, learn=True).tokens, first.tokens)  # with the codes of before
    assert moved() == (kind == "vq-ema")


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_vectors_logits_and_what_learns_by_them(kind: str) -> None:
    space = make(kind)
    vectors = torch.randn(6, 4, 5, requires_grad=True)
    quantized = space.quantize(vectors)
    errors = quantized.errors.values()
    outcome = (quantized.tokens * torch.randn_like(quantized.tokens)).sum()
    torch.stack([outcome, *(error.sum() for error in errors)]).sum().backward()
    for tensor in (vectors, *space.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0
    logits = torch.randn(2, 4, space.vocabulary, requires_grad=True)
    _, tokens = space.sample(logits, GeneratorNoise())
    weights = torch.randn_like(tokens)
    (found,) = torch.autograd.grad((tokens * weights).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) @ space.codebook.detach() * weights).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_tokens_are_drawn_by_their_probabilities() -> None:
    space = make("vq")
    probabilities = torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0])
    logits = probabilities.log().clamp(min=-100).expand(20_000, 4, 7)
    drawn, _ = space.sample(logits, GeneratorNoise(torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn.flatten(), minlength=7) / drawn.numel()
    torch.testing.assert_close(shares, probabilities, atol=0.01, rtol=0.0)
    likeliest, tokens = space.mode(logits)
    assert torch.equal(likeliest, torch.zeros_like(likeliest))
    assert torch.equal(tokens, space.sample(logits, ModeNoise())[1])


def test_a_codebook_is_built_on_the_meta_device() -> None:
    for kind in KINDS:
        with torch.device("meta"):
            space = make(kind)
        assert all(tensor.is_meta for tensor in (*space.parameters(), *space.buffers()))


def test_a_grid_needs_three_values_each() -> None:
    for levels in ((2, 5), ()):
        with pytest.raises(ValueError, match="at least 3 values"):
            FixedGrid(levels)


@pytest.mark.parametrize("kind", KINDS)
def test_the_errors_are_those_the_quantiser_names(kind: str) -> None:
    space = make(kind)
    errors = space.quantize(torch.randn(2, 3, 4, 5)).errors
    assert tuple(errors) == space.kind.errors
    assert all(error.shape == (2, 3) for error in errors.values())


def test_wrong_shapes_say_what_was_expected() -> None:
    space = make("vq")
    with pytest.raises(ValueError, match=r"expects logits \[..., 4, 7\], got \(2, 4, 6\)"):
        space.sample(torch.zeros(2, 4, 6), GeneratorNoise())


BLOCKED = """
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in ("vector_quantize_pytorch", "transformers")
        return None if missing else super().find_spec(name, path, target)

sys.meta_path = [WithoutExtras if finder is PathFinder else finder for finder in sys.meta_path]
import warnings
warnings.simplefilter("ignore")
import worldloom_rl
import worldloom_rl.cli
assert "tokens:tiny" in worldloom_rl.list_world_models()
from worldloom_rl.pretrained.registry import find_family
family = find_family("tokens")
try:
    family.model_class(family.presets["tiny"], *family.model_class.default_specs())
except ImportError as error:
    print(error)
try:
    worldloom_rl.cli.main(["train", "tokens", "--env", "worldloom/Catch-v0"])
except SystemExit as stopped:
    print("exit", stopped.code)
"""


def test_without_the_library_everything_is_imported_and_the_error_names_the_extra(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'worldloom-rl[tokens]'" in done.stdout
    assert "exit 2" in done.stdout
    assert "pip install 'worldloom-rl[tokens]'" in done.stderr
