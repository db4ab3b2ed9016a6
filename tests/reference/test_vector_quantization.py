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


def latent(golden: Golden, quantizer: str) -> CodebookLatent:
    codebook = golden["in/codebook"]
    found = CodebookLatent(
        golden["in/z"].shape[-2],
        codebook.shape[1],
        quantizer=quantizer,
        vocabulary=codebook.shape[0],
        decay=float(golden.numbers["decay"]),
    )
    found.set_codebook(codebook)
    return found


def test_a_codebook_that_learns_by_gradients(golden: Golden) -> None:
    space = latent(golden, "vq")
    z = golden["in/z"].clone().requires_grad_()
    quantized = space.quantize(z, learn=True)
    assert quantized.codebook_error is not None
    assert quantized.commitment_error is not None
    assert quantized.indices.dtype == torch.int64
    assert torch.equal(quantized.indices, golden["grad/indices"])
    close(quantized.tokens, golden["grad/quantised"])
    codebook_loss, commitment = quantized.codebook_error.mean(), quantized.commitment_error.mean()
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
    space = latent(golden, "vq-ema")
    state = {name.rpartition(".")[2]: value for name, value in space.state_dict().items()}
    assert torch.equal(state["cluster_size"], golden["ema/init_cluster_size"])
    z = golden["in/z"].clone().requires_grad_()
    quantized = space.quantize(z, learn=True)
    assert quantized.codebook_error is None
    assert quantized.commitment_error is not None
    assert torch.equal(quantized.indices, golden["ema/indices"])
    close(quantized.tokens, golden["ema/quantised"])  # of the codebook before the update
    loss = float(golden.numbers["beta"]) * quantized.commitment_error.mean()
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
