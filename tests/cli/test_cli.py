"""The commands as a user types them: what works, what is refused, and how a run goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwrl.cli import main
from fwrl.cli.listing import LISTS
from fwrl.cores import CORES
from fwrl.feature_maps import FEATURE_MAPS
from fwrl.files.checkpoint import load_checkpoint, save_checkpoint
from fwrl.run.directory import command_typed
from fwrl.run.log import METRICS
from fwrl.run.video import video
from fwrl.run.yaml_files import flat
from fwrl.update_rules import UPDATE_RULES

TINY = """
env:
  id: fwrl/RepeatPrevious-v0
  num_envs: 4
stack: {width: 16}
ppo: {num_steps: 16, minibatches: 2}
evaluation: {every_steps: 128, episodes: 4, num_envs: 2}
total_steps: 256
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def fwrl(monkeypatch, capsys, *words):
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr(sys, "argv", ["fwrl", *map(str, words)])
    with pytest.raises(SystemExit) as leave:
        main()
    captured = capsys.readouterr()
    return leave.value.code, captured.out, captured.err


def test_train_evaluate_and_look(config, monkeypatch, capsys):
    code, _, _ = fwrl(monkeypatch, capsys, "train", config)
    assert code == 0
    run = Path("runs/tiny")
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"0", "128", "256"}
    assert yaml.safe_load((run / "config.yaml").read_text())["stack"]["width"] == 16
    assert "torch" in json.loads((run / "versions.json").read_text())
    assert "train" in (run / "command.txt").read_text()

    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [64, 128, 192, 256]
    assert [bool(row["eval/mean_reward"]) for row in rows] == [False, True, False, True]
    events = EventAccumulator(str(run))
    events.Reload()
    logged = set(events.Tags()["scalars"])
    assert {"rollout/ep_rew_mean", "train/approx_kl", "eval/mean_reward", "time/fps"} <= logged
    assert logged <= METRICS.keys()

    code, out, _ = fwrl(monkeypatch, capsys, "evaluate", run, "--episodes", "6", "--json")
    result = json.loads(out)
    assert code == 0
    assert list(result) == [
        "env", "core", "checkpoint", "steps", "episodes", "deterministic", "seed", "faults",
        "overrides", "return_mean", "return_std", "return_iqm", "return_ci95", "length_mean",
        "success_rate",
    ]  # fmt: skip
    assert result["length_mean"] == 51
    assert result["return_ci95"][0] <= result["return_iqm"] <= result["return_ci95"][1]
    stored = list((run / "evaluations").glob("*.json"))
    assert json.loads(stored[0].read_text()) == result
    again = json.loads(fwrl(monkeypatch, capsys, "evaluate", run, "--episodes", "6", "--json")[1])
    assert again == result


def test_a_policy_plays_in_another_environment(config, monkeypatch, capsys):
    def evaluate(*words):
        return fwrl(monkeypatch, capsys, "evaluate", "runs/tiny", "--episodes", 2, *words)

    fwrl(monkeypatch, capsys, "train", config)
    code, out, _ = evaluate("--json", "env.options.k=9", "env.options.num_decks=2")
    result = json.loads(out)
    assert (code, result["length_mean"]) == (0, 103)
    assert result["overrides"] == ["env.options.k=9", "env.options.num_decks=2"]
    # beside the one of its own, which is another file
    assert evaluate()[0] == 0
    assert len(list(Path("runs/tiny/evaluations").glob("*.json"))) == 2
    for change, complaint in {
        "seed=1": "'seed=1': an evaluation takes the policy as it was trained",
        "env.nothing=1": "env.nothing: no such key",
        "env.options.k=0": "k is 0",
        "env.id=CartPole-v1": "env.id=CartPole-v1: has other observations than the policy was",
    }.items():
        code, _, error = evaluate(change)
        assert (code, error.count("\n")) == (2, 1)
        assert complaint in error


def test_an_environments_id_stands_for_a_configuration(config, monkeypatch, capsys):
    words = [f"{key}={value}" for key, value in flat(yaml.safe_load(TINY)).items()]
    words.remove("env.id=fwrl/RepeatPrevious-v0")
    assert (
        fwrl(monkeypatch, capsys, "train", "fwrl/RepeatPrevious-v0", *words, "--run-dir", "a")[0]
        == 0
    )
    assert fwrl(monkeypatch, capsys, "train", config, "--run-dir", "b")[0] == 0
    assert Path("a/config.yaml").read_text() == Path("b/config.yaml").read_text()
    # a file of such a name is a file
    config.rename("tiny-v0")
    code, out, _ = fwrl(monkeypatch, capsys, "train", "tiny-v0", "total_steps=64")
    assert (code, "runs/tiny-v0" in out) == (0, True)


def test_a_password_is_not_written_down(monkeypatch):
    typed = [
        "/somewhere/bin/fwrl",
        "tune",
        "x.yaml",
        "--fresh",
        "--storage",
        "mysql://me:secret@host/x",
    ]
    monkeypatch.setattr(sys, "argv", typed)
    assert command_typed() == "fwrl tune x.yaml --fresh --storage 'mysql://me:***@host/x'"
    monkeypatch.setattr(sys, "argv", ["here/train.py", "a.yaml", "--fresh", "env.id=a:b@c"])
    assert command_typed(leave_out=["--fresh"]) == "python train.py a.yaml env.id=a:b@c"


def test_the_same_command_continues_and_a_finished_run_stays(config, monkeypatch, capsys):
    fwrl(monkeypatch, capsys, "train", config)
    before = Path("runs/tiny/metrics.csv").read_text()
    code, out, _ = fwrl(monkeypatch, capsys, "train", config)
    assert code == 0
    assert "finished, 256 steps" in out
    assert Path("runs/tiny/metrics.csv").read_text() == before

    code, _, _ = fwrl(monkeypatch, capsys, "train", config, "total_steps=384")
    assert code == 0
    with Path("runs/tiny/metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [64, 128, 192, 256, 320, 384]


def test_another_configuration_is_refused_and_fresh_keeps_the_old_run(config, monkeypatch, capsys):
    fwrl(monkeypatch, capsys, "train", config)
    words = ("train", config, "seed=1", "--run-dir", "runs/tiny")
    code, _, err = fwrl(monkeypatch, capsys, *words)
    assert code == 2
    assert "it differs in seed (0 there, 1 here)" in err
    assert fwrl(monkeypatch, capsys, *words, "--fresh")[0] == 0
    assert yaml.safe_load(Path("runs/tiny.1/config.yaml").read_text())["seed"] == 0
    assert yaml.safe_load(Path("runs/tiny/config.yaml").read_text())["seed"] == 1


def test_only_the_newest_and_the_best_checkpoint_stay(config, monkeypatch, capsys):
    words = ("evaluation.every_steps=64", "checkpoint.keep=2", "total_steps=512")
    fwrl(monkeypatch, capsys, "train", config, *words, "--run-dir", "run")
    kept = {int(path.name) for path in Path("run/checkpoints").iterdir()}
    with Path("run/metrics.csv").open() as file:
        scores = {int(r["step"]): float(r["eval/mean_reward"]) for r in csv.DictReader(file)}
    best = max(scores, key=lambda step: (scores[step], step))
    assert kept == {448, 512, best}


@pytest.mark.parametrize(
    ("ending", "has_pyav", "option"),
    [("mp4", True, "--recall"), ("mp4", True, "--no-recall"), ("gif", False, "--recall")],
)
def test_a_video_shows_one_episode(ending, has_pyav, option, config, monkeypatch, capsys):
    if not has_pyav:
        monkeypatch.setattr(video, "find_spec", lambda name: None)
    fwrl(monkeypatch, capsys, "train", config, "total_steps=64")
    words = (
        "evaluate",
        "runs/tiny",
        "--episodes",
        "2",
        "--stochastic",
        "--video",
        "films",
        option,
        "--json",
    )
    code, out, _ = fwrl(monkeypatch, capsys, *words)
    result = json.loads(out)
    assert code == 0
    assert result["deterministic"] is False
    assert result["video"] == f"films/episode_64_seed0.{ending}"
    with av.open(result["video"]) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    # an episode of 51 steps; where it ends the next one has begun
    assert len(frames) == 50
    assert (frames[0].shape == (240, 320, 3)) == (option == "--no-recall")
    assert ("recall_strip" in result) == (option == "--recall")
    assert (frames[0] != frames[25]).any()


def test_an_environment_without_pictures_says_so(config, monkeypatch, capsys):
    words = ("env.id=popgym-RepeatPreviousEasy-v0", "--run-dir", "run")
    fwrl(monkeypatch, capsys, "train", config, *words)
    words = ("evaluate", "run", "--episodes", "2", "--video", "films")
    code, _, err = fwrl(monkeypatch, capsys, *words)
    assert code == 2
    assert err == "fwrl: --video: popgym-RepeatPreviousEasy-v0 draws no pictures of this episode\n"


# what is typed after `train tiny.yaml`, and what the one line says
MISTAKES = [
    ("ppo.epochz=3", "ppo.epochz: no such key; did you mean 'epochs'?"),
    ("ppo.gamma=0.9", "ppo.gamma: no such key; here it is called 'discount'"),
    ("learning_rate=0.9", "learning_rate: no such key"),
    ("ppo.epochs=many", "ppo.epochs is 'many'"),
    ("ppo.clip=-1", "ppo.clip is -1; it should be greater than 0"),
    ("core.kind=lstmm", "core.kind is 'lstmm'; did you mean 'lstm'?"),
    ("core.feature_map=sillu", "core.feature_map is 'sillu'; did you mean 'silu'?"),
    ("core.headz=2", "core.headz: no such key; did you mean 'heads'?"),
    ("core.heads=3", "does not divide into 3 heads"),
    ("env.id=fwrl/RepeatPreviou-v0", "did you mean 'fwrl/RepeatPrevious-v0'?"),
    ("env.id=no_such_package:Env-v0", "no_such_package:Env-v0"),
    ("env.options.level=mediu", "level is 'mediu'; it should be one of easy, medium, hard"),
    ("env.options.levle=easy", "level"),
    ("env.kind=atary", "env.kind is 'atary'; did you mean 'atari'?"),
    ("ppo.minibatches=5", "it should be at most that"),
    ("ppo.sequence_length=5", "it should divide num_steps (16)"),
    ("device=cuda:7", "device is 'cuda:7'; did you mean 'cuda'?"),
    ("seed", "'seed': not an override; it should be KEY=VALUE"),
    ("total_steps.x=1", "total_steps is 256, which has no keys inside"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(
    words, message, config, monkeypatch, capsys, tmp_path
):
    code, out, err = fwrl(monkeypatch, capsys, "train", config, words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml"}


def test_files_and_folders_that_are_not_what_they_should_be(config, monkeypatch, capsys, tmp_path):
    def complaint(*words):
        code, _, err = fwrl(monkeypatch, capsys, *words)
        assert code == 2
        assert err.count("\n") == 1
        return err

    assert "nowhere.yaml: no such file" in complaint("train", "nowhere.yaml")
    assert "no environment 'CartPol-v1'; did you mean" in complaint(
        "train", "CartPol-v1", "total_steps=64"
    )
    assert "total_steps: missing; it must be given" in complaint("train", "CartPole-v1")
    config.write_text("- a list")
    assert "holds list; it should hold key: value lines" in complaint("train", config)
    config.write_text("a: [1")
    assert "not YAML" in complaint("train", config)
    config.write_text("total_steps: 5")
    assert "env: missing; it must be given" in complaint("train", config)
    assert "nowhere: no such run directory" in complaint("evaluate", "nowhere")
    (tmp_path / "policy.onnx").touch()
    assert "policy.onnx: a file; expected a run directory" in complaint("evaluate", "policy.onnx")
    (tmp_path / "empty").mkdir()
    assert "not a run directory, it has no config.yaml" in complaint("evaluate", "empty")
    assert "list is 'corez'; did you mean 'cores'?" in complaint("list", "corez")
    assert "trian" in complaint("trian")


def test_checkpoints_that_do_not_serve(config, monkeypatch, capsys):
    fwrl(monkeypatch, capsys, "train", config)
    run = Path("runs/tiny")
    code, _, err = fwrl(monkeypatch, capsys, "evaluate", run, "--checkpoint", "7")
    assert code == 2
    assert "no checkpoint '7'; it should be best, last, a path or a step (0, 128, 256)" in err

    # a checkpoint of another shape: it describes a wider policy than its tensors make
    folder = run / "checkpoints/256"
    content = load_checkpoint(folder)
    content.document["policy"]["config"]["stack"]["width"] = 32
    save_checkpoint(folder, content.tensors, content.document)
    code, _, err = fwrl(monkeypatch, capsys, "evaluate", run, "--checkpoint", "256")
    assert code == 2
    assert "has shape" in err
    assert err.count("\n") == 1


def test_a_signal_saves_and_the_run_goes_on(config, tmp_path):
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fwrl", "train", str(config), "total_steps=100000000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    checkpoints = tmp_path / "runs/tiny/checkpoints"
    deadline = time.monotonic() + 60
    while not (checkpoints.exists() and list(checkpoints.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 75
    assert b"stopped and saved; it goes on with\npython -m fwrl train" in out
    reached = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())

    finish = [*command[:-1], f"total_steps={reached + 64}"]
    assert subprocess.run(finish, cwd=tmp_path, env=environment, check=False).returncode == 0
    with (tmp_path / "runs/tiny/metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(64, reached + 65, 64))


def test_lists_show_every_table(monkeypatch, capsys):
    code, out, _ = fwrl(monkeypatch, capsys, "list")
    assert code == 0
    words = set(out.replace(":", " ").replace(",", " ").split())
    assert words >= CORES.keys() | UPDATE_RULES.keys() | FEATURE_MAPS.keys()
    assert words >= {"fwrl/TMaze-v0", "configs/quickstart.yaml", "retrieval"}
    for name in LISTS:
        alone = fwrl(monkeypatch, capsys, "list", name)[1]
        assert alone.startswith(f"{name}\n")
        if name in {"rules", "features", "configs", "benchmarks"}:
            assert alone.strip() in out
    assert set(fwrl(monkeypatch, capsys, "list", "envs")[1].replace(",", " ").split()) >= {
        "pong", "CartPole-v1", "fwrl/TMaze-v0",
    }  # fmt: skip
