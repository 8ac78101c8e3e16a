"""``fwrl bench speed``: that what is compared is equal work, and that the table says what was."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from envs import GymnasiumConfig, make_envs
from envs.sb3 import to_sb3
from fwrl.bench.plot import STYLE
from fwrl.bench.results import read_rows
from fwrl.bench.speed import BENCHMARK, MEASUREMENTS, kernels, points, training
from fwrl.bench.speed.figure import draw_ratios
from fwrl.bench.speed.kernels import ODD_LENGTHS, kernels_of, outcome, parity_failure, problem
from fwrl.bench.speed.lstm_ppo import LSTMPPO
from fwrl.bench.speed.settings import GROUPS, SpeedSettings
from fwrl.bench.speed.timing import Compared, compare, in_turns
from fwrl.cli import main
from fwrl.kernels import KERNELS

CPU = torch.device("cpu")
STORED = Path(__file__).parents[2] / "docs/results/speed/results.csv"


def run(monkeypatch, capsys, *arguments):
    words = ["fwrl", "bench", "speed", "--preset", "smoke", *map(str, arguments)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


def finish(measurement):
    while True:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value


def test_what_is_compared_runs_in_turns():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in ("ours", "theirs", "other")}
    settings = SpeedSettings(repeats=3, shortest=0.0)
    times = finish(in_turns(runs, settings, CPU, ""))
    assert calls == ["ours", "theirs", "other"] * (1 + 3)
    assert {name: len(found) for name, found in times.items()} == dict.fromkeys(runs, 3)


def test_what_is_fast_runs_often_and_is_shown_for_one_call(monkeypatch):
    now = 0.0
    costs = {"fast": 0.001, "slow": 0.5}

    def work(name):
        nonlocal now
        now += costs[name]

    runs = {name: lambda name=name: work(name) for name in costs}
    monkeypatch.setattr("fwrl.bench.speed.timing.time.perf_counter", lambda: now)
    times = finish(in_turns(runs, SpeedSettings(repeats=2, shortest=0.1), CPU, ""))
    for name, cost in costs.items():
        assert times[name] == pytest.approx([cost, cost])
    # one call to see that it is fast, one to see how fast, and a hundred in each round
    assert now == pytest.approx((2 + 2 * 100) * 0.001 + 3 * 0.5)


def test_a_ratio_says_how_many_times_as_fast_ours_is():
    ours, theirs = [1.0, 2.0, 1.0], [3.0, 4.0, 8.0]
    row = compare(Compared("a", "b", "", "ms"), ours, theirs)
    assert (row["ours"], row["theirs"]) == (1e3, 4e3)
    assert (row["ratio"], row["low"], row["high"], row["repeats"]) == (3.0, 2.0, 8.0, 3)
    speed = compare(Compared("a", "b", "", "steps/s"), ours, theirs, work=100)
    assert (speed["ours"], speed["theirs"], speed["ratio"]) == (100.0, 25.0, 3.0)
    # four times the work in twice the time
    longer = compare(Compared("a", "b", "", "us"), [2.0], [1.0], work=8, their_work=2)
    assert (longer["ours"], longer["theirs"], longer["ratio"]) == (0.25e6, 0.5e6, 2.0)


def test_kernels_are_checked_before_anything_is_timed(monkeypatch, tmp_path, capsys):
    assert parity_failure(CPU) is None
    right = KERNELS["chunked"]

    def wrong(rule, inputs):
        values, end = right(rule, inputs)
        return values, torch.where(inputs.starts.any(), end * 1.01, end)

    monkeypatch.setitem(KERNELS, "chunked", wrong)
    assert "kernel 'chunked', rule 'sum'" in parity_failure(CPU)
    code, out = run(monkeypatch, capsys, "--out", tmp_path / "speed", "groups=[memory]")
    assert code == 1
    assert out.count("\n") == 1
    assert out.startswith("fwrl: no speed without parity: kernel 'chunked'")
    assert not (tmp_path / "speed/results.csv").exists()


@pytest.mark.parametrize("part", ["values", "end", "gradient", "nan", "one length"])
def test_the_check_sees_every_part(part, monkeypatch):
    def wrong(given, kernel):
        found = outcome(given, kernel)
        if kernel == "reference":
            return found
        if part == "one length":
            return [each * (1 + (given.query.shape[1] == ODD_LENGTHS[-1])) for each in found]
        place = {"values": 0, "end": 1}.get(part, -1)
        found[place] = found[place] + (torch.nan if part == "nan" else 0.01)
        return found

    monkeypatch.setattr(kernels, "outcome", wrong)
    assert parity_failure(CPU) is not None


def test_problems_of_the_check_start_in_the_middle_and_hold_something():
    assert all(times % 2 for times in ODD_LENGTHS)
    given = problem("gated_delta", (3, 65, 2, 16), CPU, 0.2, seed=65)
    assert 0 < given.starts[:, 1:].sum() < given.starts.numel() / 2
    assert all(leaf.abs().sum() > 0 and leaf.requires_grad for leaf in given.leaves)
    assert len(given.leaves) == 3 + 6
    assert "reference" in kernels_of("clipped_delta", torch.device("cpu"))
    assert kernels_of("delta", torch.device("cpu"))[0] == "reference"


@pytest.fixture
def agreeing(monkeypatch):
    """Parity is checked elsewhere."""
    monkeypatch.setattr("fwrl.bench.speed.parity_failure", lambda device: None)


@pytest.fixture
def loop():
    torch.manual_seed(0)
    envs = to_sb3(make_envs(GymnasiumConfig(id="fwrl/RepeatPrevious-v0", num_envs=4)))
    config = training.ppo_config(SpeedSettings(num_steps=70, epochs=1, minibatches=2))
    return LSTMPPO(envs, config, 16, CPU, seed=0)


def test_the_loop_in_one_file_replays_what_it_acted(loop):
    loop._collect()
    before = loop.state
    batch = loop._collect()
    # episodes have 51 steps: after the first 70 the third opens 32 steps later
    assert batch.starts.nonzero()[:, 0].tolist() == [32] * 4
    choice, value, after = loop.agent(batch.symbols, batch.starts, before)
    torch.testing.assert_close(choice.log_prob(batch.action), batch.log_prob)
    torch.testing.assert_close(after, loop.state)
    torch.testing.assert_close(batch.target - batch.advantage, value)
    # the last of 48 answers: it earns or loses one part of them, and nothing is to come
    torch.testing.assert_close(batch.target[31].abs(), torch.full((4,), 1 / 48))


def test_the_loop_in_one_file_forgets_where_an_episode_starts(loop):
    symbols, starts = torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bool)
    starts[1, :2] = True
    past = tuple(torch.randn(1, 4, 16) for _ in range(2))
    value, other = (loop.agent(symbols, starts, state)[1] for state in (past, loop.state))
    same = value == other
    assert same.tolist() == [[False] * 4] + [[True, True, False, False]] * 2


def test_the_loop_in_one_file_learns(loop):
    before = [parameter.clone() for parameter in loop.agent.parameters()]
    loop.iterate()
    for old, new in zip(before, loop.agent.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_without_sb3_contrib_its_rows_are_left_out(agreeing, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fwrl.bench.speed.has_contrib", lambda: False)
    monkeypatch.setattr(training, "has_contrib", lambda: False)
    code, out = run(monkeypatch, capsys, "--out", tmp_path, "groups=[training]")
    assert code == 0
    assert out.startswith("sb3-contrib is not installed: the rows of RecurrentPPO are left out\n")
    peers = {row["peer"] for row in read_rows(tmp_path / "results.csv")}
    assert peers == {"LSTM PPO in one file", training.FEED_FORWARD}


def test_groups_are_added_to_what_is_there(agreeing, monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "--out", tmp_path, "groups=[memory]")[0] == 0
    first = read_rows(tmp_path / "results.csv")
    assert run(monkeypatch, capsys, "--out", tmp_path, "groups=[memory,acting]")[0] == 0
    rows = read_rows(tmp_path / "results.csv")
    assert [row for row in rows if row["group"] == "memory"] == first
    assert {row["group"] for row in rows} == {"memory", "acting"}
    code, out = run(monkeypatch, capsys, "--out", tmp_path, "--jobs", 2)
    assert code == 2
    assert "speed measures times, one at a time" in out


def test_the_figures_of_what_is_stored(tmp_path):
    rows = read_rows(STORED)
    draw_ratios(rows, tmp_path / "speed.png")
    names = ["speed.png", "speed_kernels.png", "speed_lengths.png", "speed_shares.png"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    for name in names:
        height, width, _ = imread(tmp_path / name).shape
        # text would be too small where a wider one is fitted into a page
        assert width <= 9.2 * STYLE["savefig.dpi"]
        assert height <= 11.7 * STYLE["savefig.dpi"]
    (tmp_path / "one").mkdir()
    draw_ratios([row for row in rows if row["group"] == "acting"], tmp_path / "one/speed.png")
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["speed_lengths.png"]


def test_settings():
    assert set(MEASUREMENTS) == set(GROUPS)
    found = points(SpeedSettings())
    assert [p["threads"] for p in found if p["group"] == "training"] == [1, 2]
    assert len(found) == len(GROUPS) + 1
    for preset in BENCHMARK.presets.values():
        SpeedSettings(**preset)
    with pytest.raises(ValueError, match="minibatches is 4, more than the 2 environments"):
        SpeedSettings(training_envs=(2,))


@pytest.mark.slow
def test_smoke(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, capsys, "--out", tmp_path)[0] == 0
    rows = read_rows(tmp_path / "results.csv")
    assert list(dict.fromkeys(row["group"] for row in rows)) == list(GROUPS)
    for row in rows:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["ours"] > 0 < row["theirs"]
    assert {row["peer"] for row in rows} >= set(training.RECURRENT)
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == []
    assert (tmp_path / "speed.png").stat().st_size > 10_000
