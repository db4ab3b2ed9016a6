"""Vector quantisation against golden numbers: every tensor of the file is an input or is compared.

The numbers are those of vector-quantize-pytorch 1.32.0 and of the formulas of the papers; decay, ε and β come from the
file (see `jepa_golden`).
"""

from __future__ import annotations

import pytest
import torch
from jepa_golden import files, metadata
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl.latents import CodebookLatent
from worldloom_rl.latents.quantizers import AveragedCodes, LearnedCodes, Quantizer

(FILE,) = files("vq")
CLOSE = {"rtol": 0.0, "atol": 1e-5}


class Golden(dict[str, Tensor]):
    """The tensors of the file, which notes those that were asked for."""

    def __init__(self) -> None:
        super().__init__(load_file(FILE))
        self.numbers = metadata(FILE)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return super().__getitem__(name)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


def close(found: Tensor | None, expected: Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
def latent(golden: Golden, kind: Quantizer) -> CodebookLatent:
    codebook = golden["in/codebook"]
    found = CodebookLatent(golden["in/z"].shape[-2], codebook.shape[1], kind)
    for name in ("embed", "embed_avg"):
        getattr(found.quantizer._codebook, name).copy_(codebook.unsqueeze(0))
    return found


def test_a_codebook_that_learns_by_gradients(golden: Golden) -> None:
    space = latent(golden, LearnedCodes(len(golden["in/codebook"])))
    z = golden["in/z"].clone().requires_grad_()
    quantized = space.quantize(z, learn=True)
    assert quantized.indices.dtype == torch.int64
    assert torch.equal(quantized.indices, golden["grad/indices"])
    close(quantized.tokens, golden["grad/quantised"])
    codebook_loss, commitment = quantized.errors["codebook"].mean(), quantized.errors["commitment"].mean()
    close(codebook_loss, golden["grad/codebook_loss"])
    close(commitment, golden["grad/commit_loss"])
    total = (quantized.tokens - golden["in/target"]).square().mean()
    total = total + codebook_loss + float(golden.numbers["beta"]) * commitment
    close(total, golden["grad/total"])
    total.backward()
    close(z.grad, golden["grad/d_z"])
    (weight,) = (parameter for parameter in space.parameters() if parameter.requires_grad)
    assert weight.grad is not None
    close(weight.grad.reshape(space.codebook.shape), golden["grad/d_codebook"])


def test_a_codebook_that_follows_running_means(golden: Golden) -> None:
    space = latent(golden, AveragedCodes(len(golden["in/codebook"]), float(golden.numbers["decay"])))
    state = {name.rpartition(".")[2]: value for name, value in space.state_dict().items()}
    assert torch.equal(state["cluster_size"], golden["ema/init_cluster_size"])
    z = golden["in/z"].clone().requires_grad_()
    quantized = space.quantize(z, learn=True)
    assert set(quantized.errors) == {"commitment"}
    assert torch.equal(quantized.indices, golden["ema/indices"])
    close(quantized.tokens, golden["ema/quantised"])  # of the codebook before the update
    loss = float(golden.numbers["beta"]) * quantized.errors["commitment"].mean()
    close(loss, golden["ema/loss"])
    ((quantized.tokens - golden["in/target"]).square().mean() + loss).backward()
    close(z.grad, golden["ema/d_z"])
    assert not list(space.parameters())

    def compare(section: str, names: dict[str, str]) -> None:
        state = {name.rpartition(".")[2]: value for name, value in space.state_dict().items()}
        for ours, theirs in names.items():
            close(state[ours].squeeze(0), golden[f"{section}/{theirs}"])

    after = {"cluster_size": "cluster_size_after", "embed": "embed_after", "embed_avg": "embed_avg_after"}
    compare("ema", after)
    # The running means, from the formula: ε as the file has it.
    size, total = golden["ema/cluster_size_after"], golden["ema/embed_avg_after"]
    epsilon = float(golden.numbers["eps"])
    smoothed = (size + epsilon) / (size.sum() + len(size) * epsilon) * size.sum()
    close(space.codebook, total / smoothed.unsqueeze(-1))

    again = space.quantize(golden["in/z"], learn=True)
    assert torch.equal(again.indices, golden["ema/step2/indices"])
    compare("ema/step2", {"cluster_size": "cluster_size_after", "embed": "embed_after"})


def test_every_golden_tensor_is_compared_or_an_input() -> None:
    golden = Golden()
    test_a_codebook_that_learns_by_gradients(golden)
    test_a_codebook_that_follows_running_means(golden)
    assert golden.asked == set(golden)
