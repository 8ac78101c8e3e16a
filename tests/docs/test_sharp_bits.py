"""The page of surprises: each entry's commands and programs print what it says they print."""

import re
import shlex

import pytest
import torch
from command_line import run_command
from markdown_pages import ROOT

# the same commands as elsewhere, which check the shapes
pytestmark = pytest.mark.unchecked

PAGE = (ROOT / "docs/sharp_bits.md").read_text()
ENTRIES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# Results of trainings, which differ from machine to machine; counts and what was set do not.
MEASURED = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?")
RESULT = re.compile(r"^(return  mean|[\d,]+ steps: evaluated|popart|linear)")
# Entries whose commands take more than five seconds.
LONG = {
    "The same command goes on",
    "The name of a run has its overrides, but not all",
    "A longer run is another run",
    "An evaluation plays the best checkpoint, and never samples",
    "A policy reads its last reward",
    "The value loss has units of its own",
    "Equal bits need equal threads",
}


def test_there_are_ten():
    assert len(ENTRIES) == 10
    assert set(ENTRIES) >= LONG
    for entry in ENTRIES.values():
        assert {kind for kind, _ in BLOCK.findall(entry)} <= {"", "python", "text"}
        assert shown(entry)


def shown(entry):
    """The lines that an entry says are printed: in a block of their own, or after a command."""
    blocks = BLOCK.findall(entry)
    lines = [(kind, line) for kind, body in blocks for line in body.splitlines()]
    return [
        line for kind, line in lines if kind == "text" or (not kind and line.startswith("fwrl: "))
    ]


def output(entry, capsys):
    """The lines that the commands and programs of an entry print."""
    threads = torch.get_num_threads()
    for kind, body in BLOCK.findall(entry):
        if kind == "python":
            exec(compile(body, "docs/sharp_bits.md", "exec"), {})
        elif not kind:
            for line in re.findall(r"^(?:\$ )?fwrl (.+)", body, re.M):
                run_command(*shlex.split(line))
    torch.set_num_threads(threads)
    printed = capsys.readouterr()
    return (printed.out + printed.err).splitlines()


def same(line, printed):
    """Whether a line of the page was printed, with whatever results."""
    if not RESULT.match(line):
        return line == printed
    return bool(RESULT.match(printed)) and MEASURED.sub("#", line) == MEASURED.sub("#", printed)


@pytest.mark.parametrize(
    "title", [pytest.param(t, marks=[pytest.mark.slow] * (t in LONG)) for t in ENTRIES]
)
def test_an_entry_prints_what_it_says(title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = output(ENTRIES[title], capsys)
    for line in shown(ENTRIES[title]):
        assert any(same(line, each) for each in printed), line
    if title == "The value loss has units of its own":
        losses = [float(line.split()[2]) for line in printed if re.match(r"(popart|linear) ", line)]
        assert losses[0] == losses[1]
        assert losses[3] > 1000 * losses[2]
    if title.startswith("An evaluation"):
        first, second = (line for line in printed if line.startswith("return  mean"))
        assert first != second
