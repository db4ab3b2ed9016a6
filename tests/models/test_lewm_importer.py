"""LeWM's checkpoints come in whole or not at all.

No published file is at hand: the test writes one with the layout that LeWM's code saves, from the tensors of the
reference code in tests/reference/data/jepa, whose embeddings and predictions the imported model must give.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from worldloom_rl import AutoWorldModel
from worldloom_rl.cli import main
from worldloom_rl.models.jepa import JEPA
from worldloom_rl.models.jepa.importer import ImportSettings, import_checkpoint

DATA = Path(__file__).parents[1] / "reference" / "data"
GOLDEN = Path(os.environ.get("WORLDLOOM_REFERENCE_DIR", DATA)) / "jepa" / "lewm_tiny.safetensors"
BATCH_NORM = {"_target_": "torch.nn.BatchNorm1d", "_partial_": True}


@functools.cache
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


@functools.cache
def sizes() -> dict[str, int]:
    with safe_open(GOLDEN, "pt") as file:
        return json.loads(file.metadata()["config"])


def settings(**changes: Any) -> ImportSettings:
    return ImportSettings(**{"encoder_heads": sizes()["vh"], **changes})


def weights() -> dict[str, Tensor]:
    return {name.removeprefix("params/"): x.clone() for name, x in golden().items() if name.startswith("params/")}


def in_the_names_before(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As transformers' ViT named its blocks when the published files were written."""
    before = (
        ("encoder.layers.", "encoder.encoder.layer."), ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"), ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    )  # fmt: skip
    renamed = {}
    for name, x in tensors.items():
        if name.startswith("encoder.layers."):
            for now, then in before:
                name = name.replace(now, then)
        renamed[name] = x
    assert set(renamed) != set(tensors)
    return renamed


def numbers() -> dict[str, Any]:
    """config.json, as hydra leaves it: what is to be built, by name, beside the numbers."""
    own = sizes()
    same = {"input_dim": own["dim"], "output_dim": own["dim"], "hidden_dim": own["ph"], "norm_fn": BATCH_NORM}
    return {
        "_target_": "jepa.JEPA",
        "encoder": {
            "_target_": "stable_pretraining.backbone.utils.vit_hf", "size": "tiny", "patch_size": own["patch"],
            "image_size": own["img"], "pretrained": False, "use_mask_token": False,
        },
        "predictor": {
            "_target_": "module.ARPredictor", "num_frames": own["hist"], "input_dim": own["dim"],
            "hidden_dim": own["dim"], "output_dim": own["dim"], "depth": own["depth"], "heads": own["heads"],
            "mlp_dim": own["mlp"], "dim_head": own["dh"], "dropout": 0.1, "emb_dropout": 0.0,
        },
        "action_encoder": {"_target_": "module.Embedder", "input_dim": own["act"], "emb_dim": own["dim"]},
        "projector": {"_target_": "module.MLP", **same},
        "pred_proj": {"_target_": "module.MLP", **same},
    }  # fmt: skip


def written(folder: Path, content: object = None, config: object = None) -> Path:
    folder.mkdir(parents=True)
    torch.save(weights() if content is None else content, folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(numbers() if config is None else config))
    return folder


def embeddings_and_predictions(model: JEPA) -> tuple[Tensor, Tensor]:
    """[B, T, D] and [B, T − 1, D] of the file's pixels and actions, both of which its code had normalised."""
    mean, std = (
        torch.tensor(numbers).reshape(3, 1, 1) for numbers in (model.config.pixel_mean, model.config.pixel_std)
    )
    pixels = golden()["in/pixels"] * std + mean
    action = golden()["in/action"].nan_to_num(0.0)[:, :-1]
    is_init = torch.zeros(pixels.shape[:2], dtype=torch.bool)
    is_init[:, 0] = True
    with torch.no_grad():
        terms = model.learning_terms({"pixels": pixels}, action, is_init, model.noise)
    return terms.embedding, terms.predicted.squeeze(1)


LAYOUTS = {
    "names of now": lambda x: x,
    "names before": in_the_names_before,
    "in a trainer's state": lambda x: {"state_dict": {f"model.{name}": value for name, value in x.items()}, "epoch": 9},
    "compiled": lambda x: {f"_orig_mod.{name}": value for name, value in x.items()},
    "with a pooler": lambda x: {**x, "encoder.pooler.dense.weight": torch.zeros(4, 4)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_imported_model_embeds_and_predicts_as_the_reference_code(tmp_path: Path, layout: str) -> None:
    source = written(tmp_path / "lewm", LAYOUTS[layout](weights()))
    import_checkpoint(source, tmp_path / "ours", settings())
    model = AutoWorldModel.from_pretrained(tmp_path / "ours").eval()
    assert isinstance(model, JEPA)
    embedding, predicted = embeddings_and_predictions(model)
    torch.testing.assert_close(embedding, golden()["eval/emb"], rtol=0.0, atol=2e-5)
    torch.testing.assert_close(predicted, golden()["eval/pred"], rtol=0.0, atol=2e-5)


def test_the_command_imports_and_says_how_to_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "lewm")
    main(["import", "lewm", str(source), str(tmp_path / "ours"), "--encoder-heads", str(sizes()["vh"])])
    assert "AutoWorldModel.from_pretrained" in capsys.readouterr().out
    assert AutoWorldModel.from_pretrained(tmp_path / "ours").config.predictor_heads == sizes()["heads"]


def test_numbers_of_the_datas_actions_stand_for_every_skipped_frame(tmp_path: Path) -> None:
    assert sizes()["act"] == 4
    given = settings(action_mean=(1.0, -1.0), action_std=(2.0, 0.5))
    model = import_checkpoint(written(tmp_path / "lewm"), tmp_path / "ours", given)
    assert model.action_encoder.mean.tolist() == [1.0, -1.0, 1.0, -1.0]
    assert model.action_encoder.std.tolist() == [2.0, 0.5, 2.0, 0.5]
    with pytest.raises(ValueError, match="action_mean has 3 numbers"):
        import_checkpoint(tmp_path / "lewm", tmp_path / "other", settings(action_mean=(0.0, 0.0, 0.0)))


def test_what_config_json_wants_to_be_built_is_never_looked_at(tmp_path: Path) -> None:
    config = numbers()
    config["_target_"] = config["predictor"]["_target_"] = "os.system"
    config["encoder"] = {"_target_": "os.abort"}
    import_checkpoint(written(tmp_path / "lewm", config=config), tmp_path / "ours", settings())


class Gadget:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch gadget-ran",)


def test_an_object_among_the_tensors_is_refused_by_name_and_never_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = written(tmp_path / "lewm")
    (source / "weights.pt").write_bytes(pickle.dumps({**weights(), "x": Gadget()}))
    with pytest.raises(ValueError, match=r"not a checkpoint written by torch\.save"):
        import_checkpoint(source, tmp_path / "ours", settings())
    torch.save({**weights(), "x": Gadget()}, source / "weights.pt")
    with pytest.raises(ValueError, match="system"):
        import_checkpoint(source, tmp_path / "ours", settings())
    assert not (tmp_path / "gadget-ran").exists()
    assert not (tmp_path / "ours").exists()


def without(name: str) -> dict[str, Tensor]:
    return {key: x for key, x in weights().items() if key != name}


MISTAKES = {
    "a missing tensor": (without("predictor.transformer.layers.1.attn.to_qkv.weight"), None, "lacks .*layers.1.attn"),
    "a missing first one": (without("action_encoder.patch_embed.weight"), None, "lacks 'action_encoder.patch_embed"),
    "another norm": (without("projector.net.1.running_mean"), None, "lacks 'projector.net.1.running_mean'"),
    "an extra tensor": ({**weights(), "decoder.weight": torch.zeros(2)}, None, "extra tensor 'decoder.weight'"),
    "a tensor of another shape": (
        {**weights(), "pred_proj.net.3.bias": torch.zeros(3)}, None, r"'pred_proj.net.3.bias' of shape \(3,\)",
    ),
    "blocks with a gap": (
        {re.sub(r"transformer.layers.1\.", "transformer.layers.7.", name): x for name, x in weights().items()}, None,
        "count from 0",
    ),
    "a number that is not finite": (
        {**weights(), "projector.net.0.bias": torch.full_like(weights()["projector.net.0.bias"], torch.nan)}, None,
        "not finite",
    ),
    "no predictor's numbers": (None, {"encoder": {}}, "has no 'predictor'"),
    "heads that are no number": (None, {"predictor": {"heads": "16", "dim_head": 64}}, "'heads' must be a whole"),
    "heads of another width": (None, {"predictor": {"heads": 5, "dim_head": 8}}, "to_qkv.weight.* of shape"),
    "something else": ({"a": torch.zeros(2)}, None, "is it one of LeWM"),
    "a list": ([torch.zeros(2)], None, "a dict of named tensors is expected"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_anything_else_is_refused_and_nothing_is_written(tmp_path: Path, mistake: str) -> None:
    content, config, said = MISTAKES[mistake]
    source = written(tmp_path / "lewm", content, config)
    with pytest.raises(ValueError, match=said) as error:
        import_checkpoint(source, tmp_path / "ours", settings())
    assert len(str(error.value)) <= 400
    assert not (tmp_path / "ours").exists()


def test_a_directory_without_numbers_or_weights_is_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "lewm")
    with pytest.raises(ValueError, match="give encoder_heads"):
        import_checkpoint(source, tmp_path / "ours")
    (source / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=re.escape("holds no config.json")):
        import_checkpoint(source, tmp_path / "ours", settings())
    (source / "weights.pt").unlink()
    with pytest.raises(ValueError, match="no weights"):
        import_checkpoint(source, tmp_path / "ours", settings())
