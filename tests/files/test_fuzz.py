"""Files with a few wrong bytes: refused with our own errors, or what was saved after all."""

import json
from pathlib import Path

import pytest
import torch
from audited_loading import load_audited
from hostile_files import honest_file, honest_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents.saving import load_policy, read_exported
from fwrl.config import ConfigError
from fwrl.files.checkpoint import CheckpointError, load_checkpoint
from fwrl.run.config import RunConfig
from fwrl.run.directory import read_run_config

FILES = (
    "config.yaml",
    "checkpoints/16/manifest.json",
    "checkpoints/16/policy.safetensors",
    "checkpoints/16/generators.safetensors",
    "exported.safetensors",
)
# What means something to one of the readers.
WORDS = (
    b"{", b"}", b"[", b"]" , b'"', b",", b":", b"null", b"true", b"-1", b"0", b"1e999", b"NaN",
    b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"\x00", b"\xff", b"\\ud800", b"&a ", b"*a", b"!!x ",
    b"<<: ", b"\n", b"\n- ", b"__metadata__", b"../", b"\xf0\x9f\x98\x80", b"F64", b"BOOL",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("fuzz")
    honest_run(run)
    honest_file(run / "exported.safetensors")
    return run


@st.composite
def mutations(draw):
    """A file, and some changes of its bytes; places are in 100,000ths of its length."""
    kinds = st.sampled_from(["flip", "set", "truncate", "remove", "double", "move", "word"])
    # floats would most often be 0, 1 and the like
    places = st.integers(0, 99_999)
    change = st.tuples(kinds, places, places, st.integers(0, 255))
    return draw(st.sampled_from(FILES)), draw(st.lists(change, min_size=1, max_size=4))


def mutated(data, changes):
    for kind, first, second, number in changes:
        begin, other = first * len(data) // 100_000, second * len(data) // 100_000
        # most often short ones
        end = min(len(data), begin + 1 + number % 40 if number < 200 else other)
        piece = data[begin:end]
        match kind:
            case "flip":
                wrong = bytes([piece[0] ^ (1 << number % 8)]) if piece else b""
                data = data[:begin] + wrong + data[begin + 1 :]
            case "set":
                data = data[:begin] + bytes([number]) + data[begin + 1 :]
            case "truncate":
                data = data[:begin]
            case "remove":
                data = data[:begin] + data[end:]
            case "double":
                data = data[:end] + piece + data[end:]
            case "move":
                data = data[:other] + piece + data[other:]
            case "word":
                data = data[:begin] + WORDS[number % len(WORDS)] + data[begin:]
    return data


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def contents(run, file):
    """All that can be read of the file, with what refuses it."""
    if file == "config.yaml":
        return read_run_config(run)
    if file.startswith("checkpoints"):
        content = load_checkpoint(run / "checkpoints/16")
        policy = load_policy(run / "checkpoints/16")
        return content.tensors, content.document, policy
    return None, read_exported(run / file), load_policy(run / file)


def refused_or_equal(run, file, data):
    """Load ``data`` in place of the file; True if it was refused."""
    path, good = run / file, (run / file).read_bytes()
    saved = contents(run, file)
    path.write_bytes(data)
    try:
        found = contents(run, file)
    except (CheckpointError, ConfigError) as error:
        message = str(error)
    else:
        message = ""
    finally:
        path.write_bytes(good)
    if message:
        assert message.isprintable()
        return True
    if isinstance(found, RunConfig):
        # a configuration has no checksum: another number is another configuration, but a whole one
        assert RunConfig.model_validate(found.model_dump()) == found
        return False
    for one, other in zip(found, saved, strict=True):
        if isinstance(one, torch.nn.Module):
            assert one.config == other.config
            assert same_tensors(one.state_dict(), other.state_dict())
        elif one is not None and "counters" not in one and "run" not in one:
            assert one.keys() == other.keys()
            assert all(same_tensors(one[group], other[group]) for group in one)
        else:
            assert one == other
    return False


def fuzz(run, examples):
    """How many different mutated files were loaded, and how many refused."""
    seen = {file: {} for file in FILES}
    good = {file: (run / file).read_bytes() for file in FILES}

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(mutations())
    def try_one(mutation):
        file, changes = mutation
        data = mutated(good[file], changes)
        if data != good[file]:
            seen[file][data] = refused_or_equal(run, file, data)

    try_one()
    refused = sum(sum(found.values()) for found in seen.values())
    return sum(map(len, seen.values())), refused, seen


def test_wrong_bytes_are_refused_or_harmless(run):
    count, refused, _ = fuzz(run, 150)
    assert count > 100
    # it would also pass if nothing were read
    assert refused > count / 2


@pytest.mark.slow
def test_two_thousand_wrong_files(run):
    count, refused, _ = fuzz(run, 3500)
    assert count >= 2000
    assert refused > count / 2


def test_wrong_bytes_take_no_memory_and_run_nothing(run, tmp_path):
    _, _, seen = fuzz(run, 60)
    these = []
    for file, found in seen.items():
        for number, data in enumerate(found):
            copy = tmp_path / f"{Path(file).name}-{number}"
            honest_run(copy)
            honest_file(copy / "exported.safetensors")
            (copy / file).write_bytes(data)
            route, path = {
                "config.yaml": ("run", copy),
                "exported.safetensors": ("policy", copy / file),
            }.get(file, ("policy", copy / "checkpoints/16"))
            these.append([route, str(path)])
    before = [
        ["policy", str(run / "checkpoints/16")], ["policy", str(run / "exported.safetensors")],
        ["run", str(run)], ["config", str(tmp_path / "nowhere")],
    ]  # fmt: skip
    bad = tmp_path / "bad.yaml"
    bad.write_text(json.dumps({"sed": 3}))
    found = load_audited(these, [*before, ["config", str(bad)]])
    for (route, path), report in zip(these, found["reports"], strict=True):
        assert report["error"] in (None, "CheckpointError", "ConfigError"), (route, path, report)
        assert not report["events"], (route, path, report)
