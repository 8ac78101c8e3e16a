"""Reads the file in which wandb keeps a run until it is sent: records of LevelDB's log format."""

import json
import struct
from collections import defaultdict

from wandb.proto import wandb_internal_pb2

HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, LAST = 1, 4


def records(path):
    """All records of a file, parsed."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = HEADER, b""
    while at + RECORD_HEADER <= len(data):
        if BLOCK - at % BLOCK < RECORD_HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + RECORD_HEADER])
        whole += data[at + RECORD_HEADER : at + RECORD_HEADER + length]
        at += RECORD_HEADER + length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(run):
    """Tag -> step -> value, over all files of a run directory in the order of time."""
    found = defaultdict(dict)
    for path in sorted(run.glob("wandb/*run-*/*.wandb")):
        for record in records(path):
            if record.WhichOneof("record_type") != "history":
                continue
            values = {}
            for item in record.history.item:
                tag, *part = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                values[tag] = values.get(tag, {}) | {part[0]: value} if part else value
            for tag, value in values.items():
                if not tag.startswith("_"):
                    found[tag][values["_step"]] = (value, path.parent)
    return found


def configuration(path):
    """The configuration that a file holds."""
    (record,) = [each.run for each in records(path) if each.WhichOneof("record_type") == "run"]
    return {item.key: json.loads(item.value_json) for item in record.config.update}
