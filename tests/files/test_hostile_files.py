"""Files from strangers are loaded or refused; none runs code, writes, or takes much memory."""

import json
import os

import pytest
from audited_loading import ROOM, load_audited
from gymnasium import spaces
from hostile_files import (
    CONFIGS,
    TABLES,
    descriptions,
    honest_file,
    honest_policy,
    honest_run,
    manifests,
    sealed,
    special_files,
    tensor_files,
)

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.saving import describe_policy, load_policy
from fwrl.config import LONGEST_MESSAGE, ConfigError, validate
from fwrl.files.checkpoint import CheckpointError, save_checkpoint
from fwrl.run.evaluation import Request, evaluate_run

# Seconds of the processor; the promise is two on a machine of its own.
PATIENCE = 4.0
MISTAKEN = "env: {id: CartPole-v1, numenvs: 3}\ntotal_steps: 1"


class Corpus:
    """Hostile files in folders below ``root``, and by which route each is to be loaded.

    What stands beside such a file is honest, so that it is the file which is refused.
    """

    def __init__(self, root):
        self.root, self.these, self.outside = root, [], root / "outside.safetensors"
        honest_file(self.outside)

    def new(self, ending=""):
        return self.root / f"{len(self.these)}{ending}"

    def add(self, *these):
        self.these += [[route, str(path)] for route, path in these]

    def add_run(self, change):
        """A run whose checkpoint has been changed."""
        run = self.new()
        folder = honest_run(run)
        change(folder)
        routes = ("policy", "checkpoint", "verify")
        self.add(*((route, folder) for route in routes), ("evaluate", run))

    def add_checkpoints(self):
        marker = self.root / "marker"
        for data in tensor_files(marker).values():
            self.add_run(lambda folder, data=data: sealed(folder, "policy.safetensors", data))
            file = self.new(".safetensors")
            file.write_bytes(data)
            self.add(("policy", file), ("evaluate", file))
        good = (honest_run(self.root / "good") / "manifest.json").read_bytes()
        for data in manifests(good).values():
            self.add_run(lambda folder, data=data: (folder / "manifest.json").write_bytes(data))
        for name in ("policy.safetensors", "manifest.json"):
            for make in special_files(self.outside).values():
                self.add_run(lambda folder, m=make, n=name: ((folder / n).unlink(), m(folder / n)))

    def add_descriptions(self):
        tensors = {"policy": honest_policy().state_dict()}
        for description in descriptions().values():
            document = {"policy": description, "counters": {"steps": 1}, "score": 1}
            self.add_run(lambda folder, d=document: save_checkpoint(folder, tensors, d))

    def add_configurations(self):
        writers = [lambda path, data=data: path.write_bytes(data) for data in CONFIGS.values()]
        for make in [*writers, *special_files(self.root / "good/config.yaml").values()]:
            run = self.new()
            honest_run(run)
            (run / "config.yaml").unlink()
            make(run / "config.yaml")
            self.add(("run", run), ("evaluate", run))
            if make in writers:
                self.add(("config", run / "config.yaml"))

    def add_tables(self):
        writers = [lambda path, data=data: path.write_bytes(data) for data in TABLES.values()]
        for make in [*writers, *special_files(self.root / "table.csv").values()]:
            path = self.new(".csv")
            make(path)
            self.add(("table", path))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    hostile = Corpus(root)
    with pytest.MonkeyPatch.context() as patch:
        # nothing here must survive a power cut
        patch.setattr(os, "fsync", lambda _: None)
        hostile.add_checkpoints()
        hostile.add_descriptions()
        hostile.add_configurations()
        hostile.add_tables()
    these = hostile.these
    honest = root / "honest"
    honest_run(honest)
    honest_file(root / "honest.safetensors")
    (root / "mistaken.yaml").write_text(MISTAKEN)
    (root / "table.csv").write_text("a\n1\n")
    (root / "odd.yaml").write_text("a: [")
    before = [
        ["evaluate", honest], ["evaluate", root / "honest.safetensors"], ["best", honest],
        ["checkpoint", honest / "checkpoints/16"], ["verify", honest / "checkpoints/16"],
        ["config", root / "mistaken.yaml"], ["config", root / "odd.yaml"],
        ["table", root / "table.csv"], ["run", root / "nowhere"],
    ]  # fmt: skip
    before = [[route, str(path)] for route, path in before]
    kept = {path: path.read_bytes() for path in honest.rglob("*") if path.is_file()}
    found = load_audited(these, before)
    assert all(path.read_bytes() == data for path, data in kept.items())
    return root, these, found


# a folder of tensors that is whole, though no policy; a table through a link that the user made
READABLE = {"checkpoint", "verify", "table"}


def test_everything_is_refused_in_one_line(corpus):
    _, these, found = corpus
    assert len(these) > 500
    for (route, path), report in zip(these, found["reports"], strict=True):
        if report["error"] is None:
            assert route in READABLE, (route, path)
            continue
        assert report["error"] in ("CheckpointError", "ConfigError"), (route, path, report)
        message = report["message"]
        assert message.isprintable(), message
        assert len(message) <= LONGEST_MESSAGE


def test_nothing_runs_is_imported_or_written(corpus):
    root, these, found = corpus
    seen = [
        (route, path, report["events"])
        for (route, path), report in zip(these, found["reports"], strict=True)
        if report["events"]
    ]
    assert not seen
    assert not (root / "marker").exists()
    assert not list(root.rglob("escaped"))


def test_nothing_takes_more_time_or_memory_than_promised(corpus):
    _, these, found = corpus
    peak = found["peak"]
    for (route, path), report in zip(these, found["reports"], strict=True):
        assert report["seconds"] < PATIENCE, (route, path, report)
        assert report["peak"] - peak < ROOM, (route, path, report)


def test_refusals_are_ours_and_not_those_of_a_machine_without_memory(corpus):
    for report in corpus[2]["reports"]:
        for word in ("alloc", "Allocator", "fit into memory"):
            assert word not in report["message"], report


def test_what_no_file_holds_is_bounded(tmp_path):
    """A window costs nothing in the file, and gigabytes when the policy acts."""

    def described(window):
        config = {"stack": {"width": 512}, "core": {"kind": "gtrxl", "window": window}}
        return validate(PolicyConfig, config)

    policy = RecurrentPolicy(spaces.Discrete(2), spaces.Discrete(2), described(4))
    description = describe_policy(policy)
    for window, allowed in ((4, True), (8, True), (2**18, False)):
        config = described(window).model_dump(mode="json")
        document = {"policy": description | {"config": config}}
        save_checkpoint(tmp_path / "1", {"policy": policy.state_dict()}, document)
        if allowed:
            load_policy(tmp_path / "1")
            continue
        with pytest.raises(CheckpointError, match="bytes beside its parameters"):
            load_policy(tmp_path / "1")


def test_the_watch_sees_what_it_should(tmp_path):
    canaries = [
        ["canary system", ""],
        ["canary exec", "x = 1"],
        ["canary import", "this_is_not_there"],
        ["canary write", str(tmp_path / "file")],
    ]
    reports = load_audited(canaries, bounded=False)["reports"]
    seen = [" ".join(report["events"]) for report in reports]
    for event, text in zip(("os.system", "exec", "import", "for writing"), seen, strict=True):
        assert event in text


def test_results_do_not_leave_a_run_by_a_link(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    honest_run(run)
    elsewhere.mkdir()
    (run / "evaluations").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match="evaluations: is a symbolic link"):
        evaluate_run(run, Request(1))
    # and not by a link for the file: that is replaced
    (run / "evaluations").unlink()
    (run / "evaluations").mkdir()
    target = elsewhere / "kept"
    target.write_text("kept")
    link = run / "evaluations" / "16_seed0_best.json"
    link.symlink_to(target)
    evaluate_run(run, Request(1))
    assert target.read_text() == "kept"
    assert json.loads(link.read_text())["episodes"] == 1
