"""The TensorBoard log of a run, which is the same after the run was continued."""

import csv
import io
from unittest import mock

import numpy as np
import pytest
import torch
from command_line import InterruptAt, run_command
from kill_and_resume import write_config
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fwrl.run.log import METRICS, RunLog
from fwrl.run.memory_log import state_pictures

# the same training again and again; test_cli.py checks its shapes
pytestmark = pytest.mark.unchecked

ALL = {"scalars": 0, "images": 0, "tensors": 0}
WORDS = ["evaluation.film_steps=12", "total_steps=2048"]


def events(run):
    accumulator = EventAccumulator(str(run), size_guidance=ALL)
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logged")
    config = write_config("task", folder)
    with InterruptAt(600):
        assert run_command("train", config, *WORDS, "--run-dir", folder / "run") == 75
    # what a process that was killed has written behind its last checkpoint
    for path in (folder / "run").glob("events*"):
        path.write_bytes(path.read_bytes() + b"half a record")
    with (folder / "run/metrics.csv").open("a") as file:
        file.write("1600,half a li")
    assert run_command("train", config, *WORDS, "--run-dir", folder / "run") == 0
    return folder / "run"


def test_every_scalar_goes_on_without_a_step_twice(run):
    seen = events(run)
    tags = seen.Tags()["scalars"]
    # what the page of hyper-parameters adds
    assert set(tags) - {"hp_metric"} <= METRICS.keys()
    for tag in ("train/loss", "time/fps", "health/save_errors", "memory/state_norm"):
        assert [event.step for event in seen.Scalars(tag)] == list(range(64, 2049, 64))
    for tag in ("eval/mean_reward", "memory/effective_rank", "memory/beta"):
        assert [event.step for event in seen.Scalars(tag) if event.step] == [512, 1024, 1536, 2048]
    with (run / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(64, 2049, 64))


def test_every_row_is_in_the_files_as_soon_as_it_is_written(tmp_path):
    original, table = RunLog.write, []

    def write(log, step, metrics):
        original(log, step, metrics)
        with (tmp_path / "run/metrics.csv").open() as file:
            table.append([int(row["step"]) for row in csv.DictReader(file)])
        assert events(tmp_path / "run").Scalars("train/loss")[-1].step == step

    with mock.patch.object(RunLog, "write", write):
        config = write_config("task", tmp_path)
        assert run_command("train", config, "total_steps=256", "--run-dir", tmp_path / "run") == 0
    assert table == [[64], [64, 128], [64, 128, 192], [64, 128, 192, 256]]


def test_how_the_memory_is_used_is_measured(run):
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["eval/mean_reward"]]
    for row in rows:
        assert 0 < float(row["memory/beta"]) < 1
        # four heads of 4 x 4
        assert 1 <= float(row["memory/effective_rank"]) <= 4
        assert 0 < float(row["memory/key_overlap"]) <= 1
        assert -1 <= float(row["memory/query_key_cosine"]) <= 1
        assert 0 < float(row["memory/decay"]) < 1


def test_films_and_pictures_of_the_memory(run):
    seen = events(run)
    assert set(seen.Tags()["images"]) == {"eval/episode", "memory/layer_0"}
    for event in seen.Images("eval/episode"):
        film = Image.open(io.BytesIO(event.encoded_image_string))
        assert film.format == "GIF"
        # pictures in a row that are equal are one
        assert 6 <= film.n_frames <= 12
    picture = Image.open(io.BytesIO(seen.Images("memory/layer_0")[0].encoded_image_string))
    assert picture.height == 128
    assert picture.width == 4 * 128 + 3 * 32


def test_colours_say_sign_and_size():
    state = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).view(1, 1, 2, 2)
    (picture,) = state_pictures(((state, torch.zeros(1, 3, 4)),)).values()
    assert picture.shape == (128, 128, 3)
    assert picture[0, 0].tolist() == [230, 97, 1]
    assert picture[0, 127].tolist() == [33, 102, 172]
    assert picture[127, 0].tolist() == [247, 247, 247]
    assert np.all(picture[127, 127] > picture[0, 0])
    assert state_pictures((torch.zeros(2, 16),)) == {}


def test_layout_settings_and_configuration_are_there(run):
    seen = events(run)
    tensors = seen.Tags()["tensors"]
    assert "custom_scalars__config__" in tensors
    assert any(tag.startswith("config") for tag in tensors)
    plugin = seen.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert b"core.kind" in plugin.content
    assert b"checkpoint.keep" not in plugin.content
