"""Looking into policies: what they recalled, and the page that shows it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from mixed_stacks import MIXES
from PIL import Image
from saved_runs import LAG, SOLVED, saved_run
from scheduled_env import EPISODES, ScheduledEnv, small_policy

from agents.evaluation import evaluate
from agents.inspection import influence_on_actions, look_into, play_episodes, watch
from agents.rollout import EpisodeCounter, collect, start
from agents.saving import load_policy
from envs import make_envs
from fwrl.cli.inspect.inspection import Wish, inspect_run
from fwrl.cli.inspect.page import harmless_json, map_picture, page
from fwrl.cores import CORES
from fwrl.run.directory import read_run_config
from fwrl.state import tensors_in

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> &amp; \u2028"


class Page(HTMLParser):
    """The tags, attributes and texts of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.attributes, self.texts, self.tags = [], {}, []
        self.feed(path if isinstance(path, str) else path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        if self.tags:
            texts = self.texts.setdefault(self.tags[-1], [])
            texts.append(data)

    @property
    def data(self):
        return json.loads("".join(self.texts["script"]).partition('"use strict"')[0])


def decoded(shown):
    """The shares that a map of the page holds."""
    content = base64.b64decode(shown["image"].partition(",")[2])
    grey = np.asarray(Image.open(io.BytesIO(content)), float)
    return (grey - 127) / 127 * np.array(shown["largest"])[:, None]


def test_a_solved_task_is_recalled_at_the_right_time():
    config, policy = read_run_config(SOLVED), load_policy(SOLVED)
    assert (config.core.kind, config.core.short_convolution) == ("fast_weight", 0)
    assert config.env.options["k"] == LAG + 1
    envs = make_envs(config.env, 1, evaluation=True)
    right = asked = 0
    for _, played in zip(range(6), play_episodes(policy, envs, seed=7, max_steps=51), strict=False):
        assert played.success
        (layer,) = look_into(policy, played.inputs)
        share = layer.memories[0].recall.share[0, :, -1]
        peak = share.argmax(dim=-1)
        # nothing is asked before the k-th card
        times = torch.arange(LAG, len(played.reward))
        right += int((peak[times] == times - LAG).sum())
        asked += len(times)
        assert share[times, times - LAG].mean() > 0.5
    assert asked == 6 * 48
    assert right >= 0.95 * asked


def test_what_is_played_is_what_is_evaluated():
    config, policy = read_run_config(SOLVED), load_policy(SOLVED)
    expected = evaluate(policy, make_envs(config.env, 1, evaluation=True), 3, seed=11)
    envs = make_envs(config.env, 1, evaluation=True, render=True)
    played = [p for _, p in zip(range(3), play_episodes(policy, envs, 11, 99), strict=False)]
    assert [sum(p.reward) for p in played] == pytest.approx(expected.returns)
    assert [len(p.reward) for p in played] == expected.lengths
    for each in played:
        assert each.ended
        assert len(each.frames) == len(each.reward) == each.value.shape[1]
        assert each.inputs.elapsed[0].tolist() == list(range(len(each.reward)))
        # the replay says what was said while it acted
        output, _ = policy.unroll(each.inputs, policy.initial_state(1))
        torch.testing.assert_close(output.value, each.value, atol=1e-4, rtol=1e-4)


def test_influence_sees_no_future_and_adds_up():
    policy = load_policy(SOLVED)
    envs = make_envs(read_run_config(SOLVED).env, 1, evaluation=True)
    played = next(play_episodes(policy, envs, 0, 40))
    assert not played.ended
    shares = influence_on_actions(policy, played)
    assert not shares.triu(diagonal=1).any()
    torch.testing.assert_close(shares.sum(-1), torch.ones(40))
    # most actions depend most on the card that was asked for
    peak = shares.argmax(-1)[LAG:]
    assert (peak == torch.arange(40 - LAG)).float().mean() > 0.6


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    return inspect_run(SOLVED, path, Wish(episodes=2, seed=3))


def test_the_page_loads_nothing(report):
    found, text = Page(report), report.read_text()
    loading = {"src", "href", "srcset", "action", "data", "poster", "background"}
    assert not [a for a in found.attributes if a[1] in loading and a[2]]
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(r"\beval\b|new Function|innerHTML|outerHTML|document\.write|fetch\(", text)
    (policy,) = [a[2] for a in found.attributes if a[1] == "content" and "default-src" in a[2]]
    assert policy.startswith("default-src 'none'")
    assert found.tags.count("script") == 2
    assert len(text) < 20e6


def test_the_page_holds_the_episodes(report):
    data = Page(report).data
    assert (data["env"], data["core"]) == ("fwrl/RepeatPrevious-v0", "fast_weight")
    assert len(data["episodes"]) == 2
    policy, config = load_policy(SOLVED), read_run_config(SOLVED)
    plays = play_episodes(policy, make_envs(config.env, 1, evaluation=True), 3, 99)
    for shown, played in zip(data["episodes"], plays, strict=False):
        assert shown["success"] is True
        assert shown["reward"] == pytest.approx(played.reward, rel=1e-3)
        assert len(shown["frames"]) == len(shown["observations"]) == 51
        assert Image.open(io.BytesIO(base64.b64decode(shown["frames"][5].partition(",")[2]))).size
        (layer,) = look_into(policy, played.inputs)
        share = layer.memories[0].recall.share[0, :, -1].numpy()
        exact, gradient = shown["maps"]
        assert exact["exact"]
        assert not gradient["exact"]
        largest = np.abs(share).max(-1, keepdims=True)
        np.testing.assert_allclose(decoded(exact) / largest, share / largest, atol=0.6 / 127)
        (memory,) = shown["layers"][0]["memories"]
        assert memory["measures"].keys() < data["measures"].keys()
        np.testing.assert_allclose(
            memory["measures"]["beta"], layer.memories[0].measures["beta"][0], rtol=1e-3
        )


def test_texts_cannot_become_markup(report):
    data = Page(report).data | {"env": HOSTILE, "checkpoint": HOSTILE}
    found = Page(page(data))
    assert found.tags == Page(report).tags
    assert found.data["env"] == HOSTILE
    assert not set("<>&\u2028") & set(harmless_json([HOSTILE]))


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        harmless_json([float("nan")])
    assert set(map_picture(torch.zeros(3, 3))["largest"]) == {0.0}


@pytest.mark.parametrize("kind", [*sorted(CORES), *MIXES])
def test_looking_changes_no_number(kind):
    envs = ScheduledEnv(EPISODES)
    policy = small_policy(envs, kind)
    counter = EpisodeCounter(envs.num_envs)
    rollout, _, _ = collect(envs, policy, start(envs, policy, 0), 12, 0.9, 0.8, counter)
    with torch.no_grad():
        _, unwatched = policy.unroll(rollout.inputs, rollout.memory)
    _, watched = watch(policy, rollout.inputs, rollout.memory)
    for one, two in zip(tensors_in(unwatched), tensors_in(watched), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("kind", sorted(CORES))
def test_every_core_can_be_looked_into(kind, tmp_path):
    stack = {"width": 16, "layers": 2}
    run = saved_run(tmp_path / "run", core={"kind": kind}, stack=stack)
    data = Page(inspect_run(run, None, Wish(max_steps=12))).data
    (episode,) = data["episodes"]
    assert len(episode["layers"]) == 2
    exact = [shown for shown in episode["maps"] if shown["exact"]]
    assert bool(exact) == (not episode["layers"][0]["remark"].startswith("no exact map"))
    assert not episode["maps"][-1]["exact"]
    for shown in exact:
        begin = np.zeros(12) if shown["before"] is None else np.array(shown["before"])
        whole = decoded(shown).sum(1) + begin
        read = np.array(shown["largest"]) > 0
        # the picture rounds to 1/127 of the largest share
        np.testing.assert_allclose(
            whole[read], 1, atol=0.05 * max(1.0, np.max(shown["largest"])) + 0.05
        )
    for layer in episode["layers"]:
        assert layer["memories"][0]["measures"].keys() <= data["measures"].keys()


@pytest.mark.parametrize("name", MIXES)
def test_layers_without_a_map_are_named_where_others_have_one(name, tmp_path):
    mapped = [number for number, each in enumerate(MIXES[name], 1) if each.kind == "fast_weight"]
    core = [each.model_dump() for each in MIXES[name]]
    run = saved_run(tmp_path / "run", core=core, stack={"width": 16})
    data = Page(inspect_run(run, None, Wish(max_steps=12))).data
    assert data["core"] == "+".join(each.kind for each in MIXES[name])
    (episode,) = data["episodes"]
    assert len(episode["layers"]) == len(MIXES[name])
    *exact, influence = episode["maps"]
    assert {int(shown["name"].split()[1].rstrip(",")) for shown in exact} == {*mapped}
    assert not influence["exact"]
    for shown in (*exact, influence):
        for number, layer in enumerate(episode["layers"], 1):
            # two layers without a map, and for the same reason, share a line
            said = f"{number}: {layer['remark']}" in shown["remark"]
            assert said == (number not in mapped)
    for shown in exact:
        assert shown["remark"].startswith("exact, given")


def test_continuous_actions_have_means(tmp_path):
    run = saved_run(tmp_path / "run", env={"id": "MountainCarContinuous-v0"})
    (episode,) = Page(inspect_run(run, None, Wish(max_steps=5, stochastic=True))).data["episodes"]
    assert np.shape(episode["mean"]) == np.shape(episode["std"]) == (5, 1)
    assert np.shape(episode["action"]) == (5, 1)
    assert episode["ended"] is False


def test_an_environment_without_pictures_is_shown_in_numbers(tmp_path, monkeypatch):
    run = saved_run(tmp_path / "run")
    monkeypatch.setattr(
        "fwrl.cli.inspect.inspection.make_envs",
        lambda config, count, evaluation, render: make_envs(config, count, evaluation),
    )
    (episode,) = Page(inspect_run(run, None, Wish(max_steps=5))).data["episodes"]
    assert episode["frames"] == []
    assert len(episode["observations"]) == 5
    assert all(float(text) in range(4) for text in episode["observations"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_draws_the_page(report, tmp_path):
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000", "--dump-dom",
        f"file://{report}#step=20",
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Step 20 of 50" in dom
    assert "step 17, 3 steps ago" in dom
    assert "Recall map, 51 by 51 steps. Step 20 mostly depends on step 17" in dom
