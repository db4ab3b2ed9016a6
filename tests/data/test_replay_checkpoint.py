"""Saving appends; loading gives the same ring, links, latents and draws."""

from __future__ import annotations

import json
import os
import tempfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from worldloom_rl.data import Replay
from worldloom_rl.data.journal import Journal
from worldloom_rl.data.laws import WindowLaw, find_law
from worldloom_rl.keys import STREAM

torch.set_num_threads(1)
LATENT = ("latent", "deterministic")


def build(by="window", capacity=24, window=3, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return Replay(capacity=capacity, window=window, batch_size=8, by=by, generator=generator, **options)


def rows(number, *, streams=2, length=7, first=0):
    """Rows `first`.. of streams that take turns, in episodes of `length` rows, the last one terminated."""
    serial = torch.arange(first, first + number)
    step = (serial // streams % length).unsqueeze(-1)
    entries = {
        "observation": serial.float().unsqueeze(-1),
        STREAM: serial % streams,
        "is_init": step == 0,
        "terminated": step == length - 1,
        "truncated": torch.zeros_like(step, dtype=torch.bool),
        "latent": TensorDict({"deterministic": torch.zeros(number, 2)}, batch_size=[number]),
    }
    return TensorDict(entries, batch_size=[number])


def train(replay, value):
    """Writes a latent back, as a step of training does."""
    if replay.can_sample():
        batch = replay.sample().select("replay", "latent")
        batch[LATENT] = torch.full_like(batch[LATENT], value)
        replay.write_back(batch)


def same_future(one, other, first):
    """Both draw the same batches now, and after the same rows and patches."""
    for turn in range(4):
        for replay in (one, other):
            replay.set_rng(torch.Generator().manual_seed(turn))
        assert one.can_sample() == other.can_sample()
        assert one.episodes == other.episodes
        if one.can_sample():
            assert (one.sample() == other.sample()).all()
        for replay in (one, other):
            replay.extend(rows(5, first=first + 5 * turn))
            train(replay, 50.0 + turn)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 15), st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.sampled_from(["episode", "online", "window"]),
)
def test_a_loaded_replay_goes_on_exactly_like_the_one_that_was_saved(history, by):
    with tempfile.TemporaryDirectory() as directory:
        replay, written = build(by), 0
        for turn, (number, trained, saved) in enumerate(history):
            replay.extend(rows(number, first=written))
            written += number
            if trained:
                train(replay, 1.0 + turn)
            if saved:
                replay.save(directory)
        replay.save(directory)
        loaded = build(by)
        loaded.load(directory)
        assert len(loaded) == len(replay)
        same_future(replay, loaded, written)


def test_a_loaded_replay_saves_on_into_the_same_directory(tmp_path):
    replay = build()
    replay.extend(rows(20))
    replay.save(tmp_path)
    loaded = build()
    loaded.load(tmp_path)
    for each in (replay, loaded):
        each.set_rng(torch.Generator().manual_seed(3))
        each.extend(rows(10, first=20))
        train(each, 4.0)
    loaded.save(tmp_path)
    again = build()
    again.load(tmp_path)
    same_future(replay, again, 30)


def test_a_save_appends_only_what_is_new_and_drops_files_whose_rows_are_all_recycled(tmp_path):
    replay, listed = build(capacity=24), []
    for turn in range(6):
        replay.extend(rows(10, first=10 * turn))
        replay.save(tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        listed.append([(entry["first"], entry["stop"]) for entry in manifest["files"]["rows"]])
    assert listed[1] == [(0, 10), (10, 20)]
    assert listed[5] == [(30, 40), (40, 50), (50, 60)]
    files = {entry["file"] for entries in manifest["files"].values() for entry in entries}
    assert set(os.listdir(tmp_path)) == files | {"manifest.json"}


def test_a_change_file_is_dropped_when_every_row_in_it_was_patched_again(tmp_path):
    replay = build(capacity=24)
    replay.extend(rows(12))
    replay.save(tmp_path)
    for value in (1.0, 2.0, 3.0):
        for _ in range(8):  # enough draws to patch every row
            train(replay, value)
        replay.save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [entry["number"] for entry in manifest["files"]["changes"]] == [3]
    loaded = build(capacity=24)
    loaded.load(tmp_path)
    assert set(loaded.sample(64)[LATENT].flatten().tolist()) == {3.0}


def test_a_change_file_is_dropped_when_its_rows_are_recycled(tmp_path):
    replay = build(capacity=12)
    replay.extend(rows(12))
    replay.save(tmp_path)
    train(replay, 1.0)
    replay.save(tmp_path)
    replay.extend(rows(12, first=12))
    replay.save(tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text())["files"]["changes"] == []


def test_the_mark_of_a_cut_episode_survives_when_its_row_was_saved_before(tmp_path):
    replay = build("episode")
    replay.extend(rows(4, streams=1))
    replay.save(tmp_path)
    replay.extend(rows(1, streams=1))  # an init row: the collector was reset
    replay.save(tmp_path)
    loaded = build("episode")
    loaded.load(tmp_path)
    assert loaded.sample(64)["truncated"].sum() == replay.sample(64)["truncated"].sum() > 0
    assert loaded.episodes == 1
    for value in (1.0, 2.0):  # files of latents must not push out the mark
        for _ in range(5):
            train(loaded, value)
        loaded.save(tmp_path)
    again = build("episode")
    again.load(tmp_path)
    assert again.sample(64)["truncated"].any()


def test_a_save_that_is_cut_off_leaves_the_one_before(tmp_path, monkeypatch):
    replay = build()
    replay.extend(rows(10))
    replay.save(tmp_path)
    replay.extend(rows(20, first=10))
    replace = os.replace

    def fail(source, target):
        if str(target).endswith("manifest.json"):
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        replay.save(tmp_path)
    loaded = build()
    loaded.load(tmp_path)
    assert len(loaded) == 10
    monkeypatch.undo()
    replay.save(tmp_path)  # and the next one is whole
    loaded.load(tmp_path)
    same_future(replay, loaded, 30)


def test_a_save_elsewhere_is_whole(tmp_path):
    replay = build()
    replay.extend(rows(10))
    replay.save(tmp_path / "one")
    replay.extend(rows(10, first=10))
    train(replay, 2.0)
    replay.save(tmp_path / "two")
    loaded = build()
    loaded.load(tmp_path / "two")
    same_future(replay, loaded, 20)


def test_an_empty_replay_is_saved_and_loaded(tmp_path):
    build().save(tmp_path)
    loaded = build()
    loaded.load(tmp_path)
    loaded.extend(rows(5))
    loaded.save(tmp_path)
    assert loaded.can_sample()


def test_memory_mapped_rows_are_loaded_too(tmp_path):
    replay = build()
    replay.extend(rows(40)[:24])
    replay.save(tmp_path / "checkpoint")
    loaded = build(memmap_dir=tmp_path / "scratch")
    loaded.load(tmp_path / "checkpoint")
    same_future(replay, loaded, 24)


def test_damaged_missing_and_foreign_checkpoints_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is no file: nothing was saved"):
        build().load(tmp_path)
    replay = build()
    replay.extend(rows(10))
    replay.save(tmp_path)
    with pytest.raises(ValueError, match="saved with window=3, this replay has 4"):
        build(window=4).load(tmp_path)
    with pytest.raises(ValueError, match="saved with by='window'"):
        build("episode").load(tmp_path)
    path = tmp_path / json.loads((tmp_path / "manifest.json").read_text())["files"]["rows"][0]["file"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    loaded = build()
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        loaded.load(tmp_path)
    assert len(loaded) == 0
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{path.name} is missing"):
        build().load(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        build().load(tmp_path)


def test_a_journal_keeps_dtypes_and_removes_only_files_it_listed(tmp_path):
    journal = Journal(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    tensors = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.tensor([True, False])}
    journal.commit({"files": {"rows": [journal.write("rows", tensors)]}})
    entry = journal.manifest()["files"]["rows"][0]
    assert all(torch.equal(value, tensors[name]) for name, value in journal.read(entry).items())
    journal.commit({"files": {"rows": []}})
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "notes.txt"]


def test_a_save_into_another_directory_links_what_was_saved_before(tmp_path):
    replay = build(by="window", capacity=64)
    replay.extend(rows(30))
    replay.save(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "first")
    replay.moved(tmp_path / "first")
    old = {file.name for file in (tmp_path / "first").glob("rows-*")}
    replay.extend(rows(10, first=30))
    replay.save(tmp_path / "second")
    shared = [file for file in (tmp_path / "second").glob("rows-*") if file.name in old]
    assert len(shared) == len(old) == 1
    assert shared[0].stat().st_ino == (tmp_path / "first" / shared[0].name).stat().st_ino
    loaded = build(by="window", capacity=64)
    loaded.load(tmp_path / "second")
    same_future(replay, loaded, 40)


def test_files_of_version_0_6_which_named_a_row_s_stream_otherwise_are_loaded(tmp_path):
    replay = build()
    replay.extend(rows(30)[:24])
    train(replay, 1.0)
    replay.save(tmp_path)
    journal = Journal(tmp_path)
    manifest = journal.manifest()
    for place, entry in enumerate(manifest["files"]["rows"]):
        tensors = journal.read(entry)
        tensors['["stream"]'] = tensors.pop('["replay", "stream"]')
        manifest["files"]["rows"][place] = journal.write("rows", tensors, first=entry["first"], stop=entry["stop"])
    journal.commit(manifest)
    loaded = build()
    loaded.load(tmp_path)
    same_future(replay, loaded, 24)
    loaded.save(tmp_path)
    again = build()
    again.load(tmp_path)
    assert (again.entries("observation", STREAM) == loaded.entries("observation", STREAM)).all()


def test_a_law_of_one_s_own_is_taken_as_it_is_and_named_in_checkpoints(tmp_path):
    class Youngest(WindowLaw):
        name = "youngest"

        def draw(self, number, generator):
            return self.members.items[-1:].expand(number)

    replay = build(by=Youngest)
    replay.extend(rows(20))
    assert (replay.sample()["observation"][:, 0] == replay.sample()["observation"][0, 0]).all()
    replay.save(tmp_path)
    build(by=Youngest).load(tmp_path)
    with pytest.raises(ValueError, match="saved with by='youngest', this replay has 'window'"):
        build(by="window").load(tmp_path)
    assert find_law("window") is find_law(WindowLaw) is WindowLaw
    with pytest.raises(ValueError, match="by='newest' is no sampling law: choose one of"):
        build(by="newest")
