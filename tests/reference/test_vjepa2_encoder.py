"""The V-JEPA 2 encoder and its masked predictor against numbers of the official code.

Every tensor of the files vjepa2_encoder* is an input or is compared; sizes come from them (see `jepa_golden`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jepa_golden import close, files, metadata
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl.models.vjepa2 import VJEPA2Encoder
from worldloom_rl.models.vjepa2.config import mlp_ratio
from worldloom_rl.models.vjepa2.official.names import encoder_tensors, masked_predictor_tensors

transformers = pytest.importorskip("transformers")

FILES = files("vjepa2_encoder")
CALL = {"atol": 1e-5}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def file(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module")
def golden(file: Path) -> dict[str, Tensor]:
    return load_file(file)


def of(golden: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in golden.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def sizes(file: Path) -> Any:
    """The file's sizes as transformers names them."""
    official = json.loads(metadata(file)["config"])
    return transformers.VJEPA2Config(
        crop_size=official["img"], patch_size=official["patch"], frames_per_clip=official["frames"],
        tubelet_size=official["tub"], hidden_size=official["dim"], num_hidden_layers=official["depth"],
        num_attention_heads=official["heads"], mlp_ratio=official["mlp"], pred_hidden_size=official["pdim"],
        pred_num_hidden_layers=official["pdepth"], pred_num_attention_heads=official["pheads"],
        pred_num_mask_tokens=official["mt"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def encoder(golden: dict[str, Tensor], sizes: Any) -> VJEPA2Encoder:
    encoder = VJEPA2Encoder(sizes, masked_predictor=True).eval()
    encoder.encoder.load_state_dict(encoder_tensors(of(golden, "encoder/")), strict=True)
    encoder.masked_predictor.load_state_dict(masked_predictor_tensors(of(golden, "predictor/")), strict=True)
    return encoder.requires_grad_(False)


@pytest.fixture(scope="module")
def video(golden: dict[str, Tensor]) -> Tensor:
    return golden["in/video_BCTHW"].transpose(1, 2)


def test_every_tensor_of_the_file_is_an_input_or_is_compared(golden: dict[str, Tensor]) -> None:
    known = re.compile(
        r"(encoder|predictor)/.+|in/(video_BCTHW|ctx_ids|tgt_ids)"
        r"|out/(encoder(_masked|_frame0_repeated)?|predictor_ctx_from_(full|masked(_mask0)?))"
    )
    assert [name for name in golden if not known.fullmatch(name)] == []


def test_video_tokens_are_the_official_ones(golden: dict[str, Tensor], encoder: VJEPA2Encoder, video: Tensor) -> None:
    close(encoder.video_tokens(video), golden["out/encoder"], **CALL)
    found = encoder.video_tokens(video, golden["in/ctx_ids"])
    close(found, golden["out/encoder_masked"], **CALL)


def test_a_frame_is_encoded_alone_repeated_and_normalised(
    golden: dict[str, Tensor], encoder: VJEPA2Encoder, video: Tensor
) -> None:
    raw = golden["out/encoder_frame0_repeated"]
    close(encoder.video_tokens(video[:, :1]), raw, **CALL)
    frames = video[:, 0] * encoder.std + encoder.mean  # as an image in [0, 1] would be, before ImageNet's statistics
    close(encoder(frames), F.layer_norm(raw, raw.shape[-1:]), **CALL)
    both = torch.stack([frames, frames.flip(-1)], 1)
    close(encoder(both)[:, 0], encoder(frames), **CALL)
    close(encoder(both)[:, 1], encoder(frames.flip(-1)), **CALL)
    close(encoder(frames[0]), encoder(frames)[0], **CALL)


def test_bytes_are_images_of_numbers_up_to_255(encoder: VJEPA2Encoder, sizes: Any) -> None:
    image = torch.randint(0, 256, (2, 3, sizes.crop_size, sizes.crop_size), dtype=torch.uint8)
    close(encoder(image), encoder(image.float() / 255), **CALL)


def test_masked_predictions_are_the_official_ones(
    golden: dict[str, Tensor], encoder: VJEPA2Encoder, video: Tensor
) -> None:
    places, targets = golden["in/ctx_ids"], golden["in/tgt_ids"]
    whole = encoder.video_tokens(video).take_along_dim(places.unsqueeze(-1), 1)
    found = encoder.predict_masked(whole, places, targets)
    close(found, golden["out/predictor_ctx_from_full"], **CALL)
    found = encoder.predict_masked(encoder.video_tokens(video, places), places, targets)
    close(found, golden["out/predictor_ctx_from_masked"], **CALL)


def test_masked_predictions_with_the_first_mask_token(
    golden: dict[str, Tensor], encoder: VJEPA2Encoder, video: Tensor, sizes: Any
) -> None:
    """transformers always takes the second; the first stands in its place here."""
    tensors = encoder.masked_predictor.state_dict()
    other = VJEPA2Encoder(sizes, masked_predictor=True)
    masks = tensors.pop("embeddings.mask_tokens").roll(1, 0)
    other.masked_predictor.load_state_dict({**tensors, "embeddings.mask_tokens": masks})
    places = golden["in/ctx_ids"]
    with torch.no_grad():
        found = other.predict_masked(encoder.video_tokens(video, places), places, golden["in/tgt_ids"])
    close(found, golden["out/predictor_ctx_from_masked_mask0"], **CALL)


def test_an_encoder_comes_from_a_directory_of_transformers(sizes: Any, tmp_path: Path) -> None:
    model = transformers.VJEPA2Model(sizes)
    model.save_pretrained(tmp_path)
    loaded = VJEPA2Encoder.from_pretrained(tmp_path)
    assert loaded.masked_predictor is None
    frames = torch.rand(2, 3, sizes.crop_size, sizes.crop_size)
    with torch.no_grad():
        expected = model.eval().encoder(frames.sub(loaded.mean).div(loaded.std).unsqueeze(1)).last_hidden_state
        close(loaded.eval()(frames), F.layer_norm(expected, expected.shape[-1:]), **CALL)
    with pytest.raises(ValueError, match="built without its masked predictor"):
        loaded.predict_masked(torch.zeros(1, 1, sizes.hidden_size), torch.zeros(1, 1).long(), torch.zeros(1, 1).long())


def test_images_of_another_size_are_refused(encoder: VJEPA2Encoder, sizes: Any) -> None:
    side = sizes.crop_size
    with pytest.raises(ValueError, match=rf"reads images \[3, {side}, {side}\], got \(3, {side // 2}, {side}\)"):
        encoder(torch.zeros(2, 3, side // 2, side))


@pytest.mark.parametrize(("width", "hidden"), [(1408, 6144), (64, 256), (49, 131), (1, 3)])
def test_transformers_computes_the_hidden_width_from_the_ratio(width: int, hidden: int) -> None:
    assert int(width * mlp_ratio(width, hidden)) == hidden


def test_names_that_are_none_of_ours_are_refused(golden: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="'cls_token' of shape"):
        encoder_tensors({"cls_token": torch.zeros(1, 1, 4)})
    with pytest.raises(ValueError, match=r"lacks mask_tokens\.0"):
        masked_predictor_tensors({"mask_tokens.1": torch.zeros(1, 1, 4)})


_WITHOUT_TRANSFORMERS = """
import sys
sys.modules["transformers"] = None  # as if it were not installed
import worldloom_rl
from worldloom_rl.models.vjepa2 import VJEPA2ACPredictor, VJEPA2Encoder
worldloom_rl.list_world_models()
VJEPA2ACPredictor(token_dim=8, dim=16, depth=1, heads=2, grid=(2, 2))
for build in (lambda: VJEPA2Encoder(None), lambda: VJEPA2Encoder.from_pretrained("nowhere")):
    try:
        build()
    except ImportError as error:
        assert "pip install 'worldloom-rl[vjepa]'" in str(error), error
    else:
        raise AssertionError("a V-JEPA 2 encoder was built without transformers")
"""


@pytest.mark.process
def test_only_an_encoder_needs_transformers() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _WITHOUT_TRANSFORMERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
