"""``fwrl bench speed``: that what is compared is equal work, and that the table says what was."""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from agents.ppo import PPOConfig
from fwrl.bench.plot import STYLE
from fwrl.bench.results import read_rows
from fwrl.bench.speed import BENCHMARK, MEASUREMENTS, kernels, points, solve, trainers
from fwrl.bench.speed.figure import draw_ratios
from fwrl.bench.speed.job import TrainingConfig
from fwrl.bench.speed.kernels import ODD_LENGTHS, kernels_of, outcome, parity_failure, problem
from fwrl.bench.speed.lstm_ppo import LSTMPPO
from fwrl.bench.speed.settings import GROUPS, SpeedSettings
from fwrl.bench.speed.timing import Compared, Seconds, compare, in_turns
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
        assert [each.wall for each in times[name]] == pytest.approx([cost, cost])
    # one call to see that it is fast, one to see how fast, and a hundred in each round
    assert now == pytest.approx((2 + 2 * 100) * 0.001 + 3 * 0.5)


def test_work_in_another_process_counts_there():
    runs = {"child": lambda: Seconds(3.0, 2.0)}
    (first, second), *_ = finish(in_turns(runs, SpeedSettings(repeats=2), CPU, "")).values()
    assert first == second == (3.0, 2.0)


def test_both_clocks_are_read():
    def wait():
        time.sleep(0.05)

    def work():
        began = time.process_time()
        while time.process_time() - began < 0.05:
            pass

    settings = SpeedSettings(repeats=1, shortest=0.0)
    times = finish(in_turns({"wait": wait, "work": work}, settings, CPU, ""))
    assert times["wait"][0].processor < 0.02 < 0.05 <= times["wait"][0].wall
    assert times["work"][0].processor >= 0.05


def seconds(*walls):
    """Times, of which the processor worked a half."""
    return [Seconds(wall, wall / 2) for wall in walls]


def test_a_ratio_says_how_many_times_as_fast_ours_is():
    ours, theirs = seconds(1.0, 2.0, 1.0), seconds(3.0, 4.0, 8.0)
    row = compare(Compared("a", "b", "", "ms"), ours, theirs)
    assert (row["ours"], row["theirs"]) == (1e3, 4e3)
    assert (row["ratio"], row["low"], row["high"], row["repeats"]) == (3.0, 2.0, 8.0, 3)
    assert (row["processor_ours"], row["processor_theirs"]) == (0.5e3, 2e3)
    speed = compare(Compared("a", "b", "", "steps/s"), ours, theirs, work=100)
    assert (speed["ours"], speed["theirs"], speed["ratio"]) == (100.0, 25.0, 3.0)
    # four times the work in twice the time
    longer = compare(Compared("a", "b", "", "us"), seconds(2.0), seconds(1.0), 8, 2)
    assert (longer["ours"], longer["theirs"], longer["ratio"]) == (0.25e6, 0.5e6, 2.0)
    # the clocks do not mix
    waiting = [Seconds(1.0, 0.1)], [Seconds(2.0, 1.0)]
    row = compare(Compared("a", "b", "", "ms"), *waiting)
    assert (row["ratio"], row["processor_ratio"], row["processor_low"]) == (2.0, 10.0, 10.0)


@pytest.mark.unchecked
def test_kernels_are_checked_before_anything_is_timed(monkeypatch, tmp_path, capsys):
    # its interpreter takes a minute, and its own tests compare the same
    monkeypatch.delitem(KERNELS, "triton")
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
    config = PPOConfig(num_steps=70, epochs=1, minibatches=2)
    return LSTMPPO(TrainingConfig(task="RepeatPrevious", num_envs=4, width=16, ppo=config), CPU)


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
    symbols, starts = torch.zeros(3, 4, 1, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.bool)
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


def test_the_loop_in_one_file_is_evaluated_in_other_episodes(loop):
    with torch.no_grad():
        for weight in loop.agent.parameters():
            weight.zero_()
    # it always says spades: as good as chance, by as many right answers as there are spades
    assert -0.6 < loop.evaluate(20) < -0.4


WITHOUT = {"jax": trainers.JAX, "sb3_contrib": "RecurrentPPO"}


def test_what_is_not_installed_is_left_out(agreeing, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(trainers, "find_spec", lambda name: None if name in WITHOUT else True)
    monkeypatch.setattr(trainers, "PUFFER_PYTHON", tmp_path / "nowhere")
    code, out = run(monkeypatch, capsys, "--out", tmp_path, "groups=[training]")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "sb3-contrib is not installed: the rows of RecurrentPPO are left out"
    assert lines[1].startswith("jax and optax (the extra bench) are not installed: ")
    assert lines[2].startswith("benchmarks/pufferlib.sh has not been run: ")
    peers = {row["peer"] for row in read_rows(tmp_path / "results.csv")}
    ours = {trainers.OUR_GRU, trainers.OURS_IN_BFLOAT16}
    assert peers == ours | {trainers.ONE_FILE, trainers.FEED_FORWARD}
    assert {each["peer"] for each in points(SpeedSettings(groups=("solve",)))} == {
        trainers.OURS,
        trainers.ONE_FILE,
    }


@pytest.mark.skipif(find_spec("jax") is None, reason="the extra bench")
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_peer_that_jax_compiles_does_equal_work(which):
    checks = Path(__file__).with_name("speed_jax_checks.py")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", checks, "-m", which]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout
    assert "passed" in outcome.stdout
    assert "skipped" not in outcome.stdout


def test_the_script_of_the_environment_is_where_the_line_says():
    root = Path(__file__).parents[2]
    environment = trainers.PUFFER_PYTHON.parents[1].relative_to(root)
    assert f"venv={environment}\n" in (root / "benchmarks/pufferlib.sh").read_text()
    assert trainers.PUFFER_DRIVER.exists()


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
    assert {*MEASUREMENTS, "solve"} == set(GROUPS)
    assert set(solve.TASKS) == set(SpeedSettings().solve_tasks)
    assert set(solve.SOLVERS) <= set(trainers.TRAINERS)
    found = points(SpeedSettings())
    assert [p["threads"] for p in found if p["group"] == "training"] == [1, 2]
    solving = [each for each in found if each["group"] == "solve"]
    assert len(solving) == len(solve.TASKS) * len(trainers.present(solve.SOLVERS))
    assert len(found) - len(solving) == len(GROUPS)
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
        if row["group"] == "solve":
            assert 0 < row["processor_preparation"] < row["processor_total"]
            assert 3840 <= row["steps"] < 2 * 3840 + 1
            assert row["note"] == f"not solved in {row['steps']:,} steps"
            continue
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["ours"] > 0 < row["theirs"]
    assert {row["peer"] for row in rows} >= {*trainers.present(trainers.TRAINERS)} - {trainers.OURS}
    assert json.loads((tmp_path / "results.json").read_text())["missing"] == []
    assert (tmp_path / "speed.png").stat().st_size > 10_000
