"""SIGReg, the PLDM terms and temporal straightening against the numbers of their MIT-licensed reference code."""

from __future__ import annotations

import re

import pytest
import torch
from jepa_golden import close, files, metadata
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl.functional.sigreg import _quadrature, sigreg
from worldloom_rl.functional.straightening import straightening
from worldloom_rl.functional.vcreg import batch_centred, covariance_penalty, temporal_distance, variance_hinge

(FILE,) = files("jepa_losses")
GOLDEN = load_file(FILE)
METADATA = metadata(FILE)
KNOTS = int(METADATA["knots"])
SECTIONS = sorted({name.split("/")[1] for name in GOLDEN if name.startswith("sigreg/") and name.endswith("/loss")})
# Which terms the file's weighted gradient is of stands in the tensor's name: 18std_0.7stdt_12cov_0.2temp.
(PLDM_GRADIENT,) = (name for name in GOLDEN if name.startswith("pldm/grad_weighted_"))
TERMS = {
    "std": "std_loss", "stdt": "std_t_loss", "cov": "cov_loss", "covt": "cov_t_loss", "temp": "temp_align_loss",
}  # fmt: skip
PLDM_WEIGHTS = {
    TERMS[name]: float(weight) for weight, name in re.findall(r"_(\d+(?:\.\d+)?(?:e-?\d+)?)([a-z]+)", PLDM_GRADIENT)
}


def close_gradient(found: Tensor, expected: Tensor) -> None:
    """Within 1e-4 of the largest entry."""
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-4 * float(expected.abs().max()))


def pldm(z: Tensor) -> dict[str, Tensor]:
    """The terms under their names in the file, from z [B, T, D]."""
    centred = batch_centred(z)
    over_time = centred.transpose(0, 1)
    return {
        "std_loss": variance_hinge(centred).mean(),
        "std_t_loss": variance_hinge(over_time).mean(),
        "cov_loss": covariance_penalty(centred).mean(),
        "cov_t_loss": covariance_penalty(over_time).mean(),
        "temp_align_loss": temporal_distance(z).mean(),
        "idm_loss": (GOLDEN["pldm/a_pred"] - GOLDEN["pldm/a_target"]).square().mean(),
    }


def test_the_file_holds_no_section_that_is_not_compared() -> None:
    known = {f"sigreg/{section}/{leaf}" for section in SECTIONS for leaf in ("z", "directions", "loss", "grad")}
    known |= {f"sigreg/buffers/{name}" for name in ("t", "weights", "phi")}
    known |= {"pldm/z", "pldm/a_pred", "pldm/a_target", PLDM_GRADIENT} | {
        f"pldm/{name}" for name in pldm(torch.randn(3, 3, 2))
    }
    known |= {"straightening/loss", "straightening/grad"}
    assert set(GOLDEN) == known
    assert SECTIONS
    assert PLDM_WEIGHTS


def test_sigreg_integrates_with_the_weights_of_the_reference() -> None:
    t, weight, target = _quadrature(KNOTS, torch.zeros(()))
    close(t, GOLDEN["sigreg/buffers/t"], atol=1e-6)
    close(target, GOLDEN["sigreg/buffers/phi"], atol=1e-6)
    close(weight, GOLDEN["sigreg/buffers/weights"], atol=1e-6)


@pytest.mark.parametrize("section", SECTIONS)
def test_sigreg_and_its_gradient_match(section: str) -> None:
    z = GOLDEN[f"sigreg/{section}/z"].requires_grad_()
    directions = GOLDEN[f"sigreg/{section}/directions"]
    loss = sigreg(z, directions, KNOTS)
    assert loss.shape == z.shape[:1]
    close(loss.mean(), GOLDEN[f"sigreg/{section}/loss"], rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss.mean(), z)
    close_gradient(gradient, GOLDEN[f"sigreg/{section}/grad"])


@pytest.mark.parametrize("name", sorted(pldm(torch.randn(3, 3, 2))))
def test_a_pldm_term_matches(name: str) -> None:
    close(pldm(GOLDEN["pldm/z"])[name], GOLDEN[f"pldm/{name}"], atol=1e-5)


def test_the_gradient_of_the_weighted_pldm_terms_matches() -> None:
    z = GOLDEN["pldm/z"].requires_grad_()
    terms = pldm(z)
    (gradient,) = torch.autograd.grad(sum(weight * terms[name] for name, weight in PLDM_WEIGHTS.items()), z)
    close_gradient(gradient, GOLDEN[PLDM_GRADIENT])


def test_straightening_and_its_gradient_match() -> None:
    z = GOLDEN["pldm/z"].requires_grad_()
    loss = straightening(z).mean()
    close(loss, GOLDEN["straightening/loss"], atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, z)
    close_gradient(gradient, GOLDEN["straightening/grad"])
