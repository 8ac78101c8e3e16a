"""Videos with the recall strip: what is drawn, what stays as it was, and what a kill leaves."""

import json
import shutil
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from saved_runs import LAG, SOLVED, saved_run

from agents.inspection import follow, look_into, play_episodes, recall_rows
from agents.saving import find_checkpoint, load_policy
from envs import make_envs
from fwrl.run.directory import read_run_config
from fwrl.run.evaluation import Request, evaluate_run, report
from fwrl.run.video import episode_frames, recall_strip, video
from fwrl.run.video.episode_frames import moments, pictures_of, with_recall
from fwrl.run.video.recall_strip import Band, Shown, in_words, ticks, with_strip
from fwrl.state import map_tensors

EXACT = [
    "delta_delta", "delta_lstm", "delta_mlp", "delta_rnn", "hybrid", "mamba2", "mesa",
    "recurrent_delta", "rwkv7", "slow_rnn",
]  # fmt: skip
FAST_WEIGHTS = [
    {}, {"num_householder": 2}, {"short_convolution": 3},
    {"update_rule": "delta", "attention_normaliser": True, "feature_map": "dpfp"},
    {"learned_initial_state": True, "update_rule": "gated_delta"},
]  # fmt: skip
CORES = [{"kind": kind} for kind in EXACT] + [
    {"kind": "fast_weight", **one} for one in FAST_WEIGHTS
]


def opened(run, seed=0):
    """A policy of a run and one environment that draws."""
    config = read_run_config(run)
    torch.manual_seed(seed)
    policy = load_policy(find_checkpoint(run, "best"))
    return policy, make_envs(config.env, 1, evaluation=True, render=True)


def frames_of(run, recall, stochastic=False, seed=5):
    policy, envs = opened(run, seed)
    episode = moments(envs, policy, seed, 1000, not stochastic)
    return list(with_recall(policy, episode)[0] if recall else pictures_of(episode))


@pytest.mark.parametrize("core", CORES, ids=lambda core: "-".join(map(str, core.values())))
def test_rows_in_pieces_are_those_of_the_whole_map(core, tmp_path):
    run = saved_run(tmp_path / "run", core=core, stack={"width": 16, "layers": 2})
    policy, envs = opened(run)
    played = next(play_episodes(policy, envs, 0, 23))
    whole = [memory for layer in look_into(policy, played.inputs) for memory in layer.memories]
    window, before, found = 5, None, []
    for first in range(0, 23, window):
        piece = map_tensors(lambda leaf, s=slice(first, first + window): leaf[:, s], played.inputs)
        now = follow(policy, piece, before)
        found.append(recall_rows(now, before, window))
        before = now
    for memory, pieces in zip(whole, zip(*found, strict=True), strict=True):
        expected = memory.recall.share[0, :, -1]
        share = torch.cat([rows.share for rows in pieces])
        older = torch.cat([rows.older for rows in pieces])
        assert share.shape == (23, window)
        size = expected.abs().sum(-1).clamp_min(1)
        for time in range(23):
            for ago in range(window):
                right = expected[time, time - ago] if ago <= time else torch.tensor(0.0)
                assert abs(share[time, -1 - ago] - right) < 1e-3 * size[time]
        total = expected.sum(-1) + memory.recall.before[0, :, -1]
        assert ((share.sum(-1) + older - total).abs() < 1e-3 * size).all()


def tallest(frame, steps):
    """The step whose bar is the tallest, as it is drawn, in a picture 320 wide with one strip."""
    color = np.array(recall_strip.FOR)
    blue = (np.abs(frame[240:].astype(int) - color).max(-1) < 60).sum(0)
    pitch = min(recall_strip.WIDEST_BAR, (320 - 2 * recall_strip.MARGIN) / steps)
    middles = recall_strip.MARGIN + pitch * (np.arange(steps) + 0.5)
    return int(blue[middles.astype(int)].argmax())


def test_the_tallest_bar_stands_at_the_card_that_is_asked_for():
    frames = frames_of(SOLVED, recall=True)
    assert len(frames) == 50
    times = range(LAG, 51)
    # the first picture is that of step 1
    right = sum(tallest(frames[time - 1], 51) == time - LAG for time in times)
    assert right >= 0.95 * len(times)


@pytest.mark.parametrize("window", [200, 16])
def test_the_strip_changes_nothing_above_it(window, monkeypatch):
    monkeypatch.setattr(episode_frames, "WINDOW", window)
    policy, envs = opened(SOLVED)
    played = next(play_episodes(policy, envs, 5, 99))
    plain, shown = frames_of(SOLVED, recall=False), frames_of(SOLVED, recall=True)
    assert len(plain) == len(shown) == 50
    # the oracle plays by itself, and has a picture of the opening as well
    for expected, frame, whole in zip(played.frames[1:], plain, shown, strict=True):
        np.testing.assert_array_equal(frame, expected)
        np.testing.assert_array_equal(whole[:240], expected)
        assert whole.shape == shown[0].shape
        assert whole.shape[0] > 240
        assert whole.shape[0] % 2 == 0


def test_a_long_episode_is_shown_through_a_window(monkeypatch):
    monkeypatch.setattr(episode_frames, "WINDOW", 16)
    seen = []
    monkeypatch.setattr(
        episode_frames, "with_strip", lambda frame, shown: seen.append(shown) or frame
    )
    frames_of(SOLVED, recall=True)
    policy, envs = opened(SOLVED)
    played = next(play_episodes(policy, envs, 5, 99))
    whole = look_into(policy, played.inputs)[0].memories[0].recall.share[0, :, -1].numpy()
    assert [shown.time for shown in seen] == list(range(1, 51))
    for shown in seen:
        assert (shown.first, shown.last) == (max(0, shown.time - 15), max(15, shown.time))
        (band,) = shown.bands
        assert band.share.shape == (16,)
        there = whole[shown.time, shown.first : shown.time + 1]
        np.testing.assert_allclose(band.share[-len(there) :], there, atol=1e-4)
        assert f"value {float(played.value[0, shown.time]):.2f}" in shown.facts
        assert band.share.sum() + band.older == pytest.approx(1, abs=1e-3)
    assert any(abs(shown.bands[0].older) > 0.001 for shown in seen)
    assert seen[7].facts[0] == "step 8"
    # 48 cards are asked for, and each of them is answered
    assert seen[-1].facts[-1] == "return 0.98"


def test_sampled_actions_and_numbers_stay_the_same_with_every_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(episode_frames, "WINDOW", 16)
    for kind in ("fast_weight", "delta_rnn"):
        run = saved_run(tmp_path / kind, core={"kind": kind})
        plain = frames_of(run, recall=False, stochastic=True)
        shown = frames_of(run, recall=True, stochastic=True)
        for frame, whole in zip(plain, shown, strict=True):
            np.testing.assert_array_equal(whole[:240], frame)


def test_no_more_than_two_blocks_are_kept(monkeypatch):
    monkeypatch.setattr(episode_frames, "WINDOW", 10)
    policy, envs = opened(SOLVED)
    taken = 0

    def counted(episode):
        nonlocal taken
        for moment in episode:
            taken += 1
            yield moment

    frames, _ = with_recall(policy, counted(moments(envs, policy, 0, 1000, True)))
    for number, _ in enumerate(frames, 1):
        assert taken <= number + 10
    # only the first ones
    policy, envs = opened(SOLVED)
    assert len(list(moments(envs, policy, 0, 9, True))) == 10
    policy, envs = opened(SOLVED)
    assert len(list(pictures_of(moments(envs, policy, 0, 9, True)))) == 9


@pytest.mark.parametrize("kind", ["lstm", "none"])
def test_a_memory_without_a_map_has_no_strip(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(episode_frames, "WINDOW", 16)
    run = saved_run(tmp_path / "run", core={"kind": kind})
    for plain, shown in zip(frames_of(run, False), frames_of(run, True), strict=True):
        np.testing.assert_array_equal(plain, shown)
    result = evaluate_run(run, Request(episodes=1, video=tmp_path / "videos"))
    assert result["recall_strip"].startswith("none: no exact map; it")
    lines = report(result, as_json=False).splitlines()
    assert lines[-1] == f"recall  {result['recall_strip']}"


def test_a_stack_shows_the_layers_that_have_maps(tmp_path):
    core = [{"kind": "gru"}, {"kind": "fast_weight"}, {"kind": "none"}]
    run = saved_run(tmp_path / "run", core=core)
    policy, envs = opened(run)
    pictures, remark = with_recall(policy, moments(envs, policy, 0, 9, True))
    plain = frames_of(run, False)[0]
    assert next(pictures).shape[0] > plain.shape[0]
    assert "layer 2: exact, given" in remark
    assert "layer 1: no exact map; its gates" in remark
    assert "layer 3: no exact map; it remembers nothing" in remark


def test_the_command_makes_both_videos(tmp_path):
    run = shutil.copytree(SOLVED, tmp_path / "run")
    for recall in (True, False):
        folder = tmp_path / str(recall)
        result = evaluate_run(run, Request(episodes=1, video=folder, recall=recall))
        assert ("recall_strip" in result) == recall
        (stored,) = (run / "evaluations").glob("*.json")
        assert json.loads(stored.read_text()) == result
        # of a single episode
        assert "interval" not in report(result, as_json=False)
        (path,) = folder.iterdir()
        assert str(path) == result["video"]


def test_a_narrow_picture_gets_borders_and_a_wide_one_a_larger_strip():
    share = np.zeros(8, np.float32)
    share[-3] = 1.7
    shown = Shown(4, 0, 7, ["step 4"], [Band("fast weights", share, -0.7)])
    narrow = with_strip(np.full((240, 240, 3), 7, np.uint8), shown)
    wide = with_strip(np.full((400, 640, 3), 7, np.uint8), shown)
    assert narrow.shape[1] == 320
    assert (narrow[:240, 40:280] == 7).all()
    assert (narrow[:240, :40] == recall_strip.PAPER).all()
    assert wide.shape[0] - 400 == pytest.approx(2 * (narrow.shape[0] - 240), abs=2)
    assert in_words(4, shown.bands[0]) == "fast weights: 170 % from step 2, 2 ago"
    nothing = Band("fast weights", np.zeros(8, np.float32), 0.0)
    assert in_words(4, nothing) == "fast weights: nothing is read"


def test_a_long_action_is_cut_where_the_next_column_begins():
    facts = ["step 4", "action " + "-0.25 " * 9, "value 1.00", "return 2.00"]
    cut = with_strip(np.zeros((240, 320, 3), np.uint8), Shown(4, 0, 7, facts, []))
    without = Shown(4, 0, 7, [*facts[:1], "", *facts[2:]], [])
    plain = with_strip(np.zeros((240, 320, 3), np.uint8), without)
    column = slice(int(recall_strip.MARGIN + 75), int(recall_strip.MARGIN + 150))
    differs = (cut != plain).any(axis=(0, 2))
    assert differs[column].any()
    differs[column] = False
    assert not differs.any()


def test_numbers_of_the_axis_are_round_and_fit():
    assert ticks(0, 20, 15.0) == list(range(0, 20, 2))
    assert ticks(341, 200, 1.5) == list(range(360, 541, 20))
    for first, count, pitch in [(0, 3, 16.0), (17, 100, 3.0), (9_900, 200, 1.5)]:
        found = ticks(first, count, pitch)
        assert all(first <= step < first + count for step in found)
        assert all(step * pitch >= recall_strip.TICK_ROOM for step in np.diff(found))


def some_frames(count, ending):
    for number in range(count):
        yield np.full((240, 320, 3), number, np.uint8)
    ending()


def interrupted():
    raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ["mp4", "gif"])
def test_a_video_that_is_interrupted_is_not_there(ending, tmp_path, monkeypatch):
    if ending == "gif":
        monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(KeyboardInterrupt):
        video.write_video(tmp_path / "video", some_frames(90, interrupted), 10.0)
    assert list(tmp_path.iterdir()) == []
    path = video.write_video(tmp_path / "video", some_frames(9, lambda: None), 10.0)
    content = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        video.write_video(tmp_path / "video", some_frames(90, interrupted), 10.0)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == content


def test_a_kill_leaves_no_half_video(tmp_path):
    program = """
import os, signal
from pathlib import Path
import numpy as np
from fwrl.run.video.video import write_video

def frames():
    yield from np.random.default_rng(0).integers(0, 256, (90, 240, 320, 3), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

write_video(Path("video"), frames(), 10.0)
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, timeout=60, check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".video.mp4.")


def test_the_same_command_overwrites_what_a_link_names(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "video.mp4").symlink_to(precious)
    path = video.write_video(tmp_path / "video", islice(some_frames(9, interrupted), 3), 10.0)
    assert precious.read_text() == "mine"
    assert not path.is_symlink()
