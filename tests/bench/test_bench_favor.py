"""``fwrl bench favor``: what it measures, beside what, and that it goes on where it was stopped."""

import json

import pytest
import torch

from fwrl.bench.favor import benchmark as favor
from fwrl.bench.favor.benchmark import BENCHMARK, COSINES, FavorSettings, measure, points
from fwrl.bench.results import read_rows
from fwrl.cli import main

SMALL = {"length": 32, "samples": 3, "num_directions": (4, 8), "draws": 50, "scales": (1.0,)}


def rows_of(settings, point, folder):
    measurement = measure(settings, point, folder)
    while True:
        try:
            next(measurement)
        except StopIteration as end:
            return end.value


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["fwrl", "bench", "favor", "--jobs", "1", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_rows_say_what_the_samples_came_to(tmp_path):
    settings = FavorSettings(**SMALL)
    attention = [point for point in points(settings) if point["quantity"] == "attention"]
    assert len(attention) == 9
    for point in attention:
        rows = rows_of(settings, point, tmp_path)
        assert [row["num_directions"] for row in rows] == [4, 8]
        for row in rows:
            assert row["lowest"] < row["median"] < row["highest"]
            total = row["lowest"] + row["median"] + row["highest"]
            assert row["error"] == pytest.approx(total / 3)
        assert rows == rows_of(settings, point, tmp_path)


def test_a_seed_is_one_set_of_sequences_and_directions_for_all_maps(tmp_path, monkeypatch):
    seen = []

    def remember(features, inputs, _exact):
        seen.append((inputs, features.projection.clone()))
        return 0.0

    monkeypatch.setattr(favor, "attention_error", remember)
    settings = FavorSettings(**SMALL, directions=("independent",), seeds=(0, 1))
    for point in points(settings):
        if point["quantity"] == "attention":
            rows_of(settings, point, tmp_path)
    per_point = 3 * 2
    first, second, third, other = (seen[n * per_point : (n + 1) * per_point] for n in range(4))
    for same in (second, third):
        for ours, theirs in zip(first, same, strict=True):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
    for ours, theirs in zip(first, other, strict=True):
        assert not torch.isclose(ours[0], theirs[0]).all()
        assert not torch.isclose(ours[1], theirs[1]).any()
    # one sequence for both numbers of directions, another for the next sample
    assert first[0][0] is first[1][0]
    assert not torch.isclose(first[0][0], first[2][0]).all()


def test_kernels_come_with_their_closed_forms(tmp_path):
    settings = FavorSettings(**SMALL | {"draws": 9_000}, vector_lengths=(0.7,))
    kernels = [point for point in points(settings) if point["quantity"] == "kernel"]
    for point in kernels:
        rows = rows_of(settings, point, tmp_path)
        assert len(rows) == len(COSINES)
        bounded = (point["map"], point["directions"]) == ("favor", "orthogonal")
        for row in rows:
            assert ("bound_orthogonal" in row) == bounded
            if point["directions"] == "independent":
                # a mean over fewer estimates than in the results
                assert row["error"] == pytest.approx(row["expected_independent"], rel=0.2)
            elif point["directions"] == "orthogonal":
                assert row["error"] < row["expected_independent"]


def test_the_smoke_preset_measures_draws_and_continues(monkeypatch, tmp_path, capsys):
    options = ["--preset", "smoke", "--out", str(tmp_path)]
    assert run(monkeypatch, *options, "scales=[1.0]", "feature_maps=[favor]") == 0
    first = read_rows(tmp_path / "results.csv")
    assert len(first) == 3 * 2 + 2 * 3 * len(COSINES)
    capsys.readouterr()
    assert run(monkeypatch, *options) == 0
    told = capsys.readouterr().out
    # nothing is measured twice
    assert "36/36" in told
    assert told.count("seconds") == 36 - 9
    rows = read_rows(tmp_path / "results.csv")
    assert len(rows) == 2 * 9 * 2 + 2 * 9 * len(COSINES)
    assert all(row in rows for row in first)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["missing"] == []
    assert len(document["published"]) == 2 * 6 * 6
    assert (tmp_path / "favor.png").read_bytes().startswith(b"\x89PNG")


def test_other_sizes_do_not_go_into_the_same_folder(monkeypatch, tmp_path, capsys):
    options = ["--preset", "smoke", "--out", str(tmp_path), "feature_maps=[favor]", "draws=10"]
    assert run(monkeypatch, *options) == 0
    assert run(monkeypatch, *options, "samples=2") == 2
    assert "samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("feature_maps=[favor_relu]", "favor_relu"),
        ("directions=[orthogonale]", "did you mean 'orthogonal'?"),
        ("sample=3", "did you mean 'samples'?"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, tmp_path, capsys, override, message):
    assert run(monkeypatch, "--preset", "smoke", "--out", str(tmp_path), override) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_the_published_preset_is_that_of_the_paper():
    settings = FavorSettings(**BENCHMARK.presets["paper"])
    assert (settings.length, settings.size, settings.samples) == (4096, 16, 15)
