"""Builds hostile files, and the honest files that they imitate."""

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from functools import cache, partial

import torch
from gymnasium import spaces

from agents.policy import PolicyConfig, RecurrentPolicy
from agents.saving import describe_policy, export_policy
from fwrl.config import validate
from fwrl.files.checkpoint import save_checkpoint
from fwrl.run.config import RunConfig

RUN = {
    "env": {"id": "fwrl/RepeatPrevious-v0", "num_envs": 4},
    "stack": {"width": 8},
    "core": {"heads": 1},
    "reward": {"normalise": True},
    "total_steps": 32,
}


class Trojan:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@cache
def honest_policy():
    torch.manual_seed(0)
    config = {key: RUN[key] for key in ("stack", "core", "reward")}
    return RecurrentPolicy(spaces.Discrete(4), spaces.Discrete(4), validate(PolicyConfig, config))


def honest_run(run, step=16):
    """Write a run with one checkpoint and return its folder; the score rises with ``step``."""
    policy, folder = honest_policy(), run / "checkpoints" / str(step)
    document = {
        "policy": describe_policy(policy),
        "counters": {"steps": step, "iterations": 1, "seconds": 1.0},
        "score": step / 10,
    }
    tensors = {"policy": policy.state_dict(), "generators": {"torch": torch.get_rng_state()}}
    save_checkpoint(folder, tensors, document)
    config = validate(RunConfig, RUN).model_dump(mode="json")
    (run / "config.yaml").write_text(json.dumps(config))
    return folder


def honest_file(path):
    config = validate(RunConfig, RUN).model_dump(mode="json")
    export_policy(path, honest_policy(), {"run": config, "steps": 16, "score": 1.6})


def tensors_file(header, data=b""):
    """A file of tensors with any header."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def entry(shape=(2,), begin=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def zipped(marker):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../escaped", "x")
        archive.writestr("archive/data.pkl", pickle.dumps(Trojan(marker)))
    return file.getvalue()


def saved_by_torch(marker):
    file = io.BytesIO()
    torch.save({"a": Trojan(marker)}, file)
    return file.getvalue()


def tensor_files(marker):
    """Hostile contents for a file of tensors, by name."""
    eight = bytes(8)
    twice = b'{"a":' + json.dumps(entry()).encode()
    return {
        "pickle": pickle.dumps(Trojan(marker)),
        "pickle of torch": saved_by_torch(marker),
        "zip": zipped(marker),
        "empty": b"",
        "seven bytes": b"1234567",
        "a header without end": struct.pack("<Q", 2**63 - 1) + b"{}",
        "a header of two gigabytes": struct.pack("<Q", 2**31) + b"{}" * 100,
        "a header that is none": tensors_file(b"[1]"),
        "a header of text": tensors_file(b'"a"'),
        "an entry that is a list": tensors_file({"a": [1]}),
        "an entry too few": tensors_file({"a": {"dtype": "F32", "shape": [2]}}, eight),
        "truncated": tensors_file({"a": entry()}, bytes(5)),
        "trailing": tensors_file({"a": entry()}, bytes(20)),
        "overlap": tensors_file({"a": entry(), "b": entry((2,), 4, 12)}, bytes(12)),
        "the same place": tensors_file({"a": entry(), "b": entry()}, eight),
        "hole": tensors_file({"a": entry(), "b": entry((2,), 12, 20)}, bytes(20)),
        "overflow": tensors_file({"a": entry((2**40, 2**40, 2**40))}, eight),
        "overflow to zero": tensors_file({"a": entry((2**32, 2**30), 0, 0)}),
        "hidden by a zero": tensors_file({"a": entry((0, 2**63), 0, 0)}),
        "strides beyond a zero": tensors_file({"a": entry((0, 2**47, 2**47), 0, 0)}),
        "a terabyte": tensors_file({"a": entry((2**38,), 0, 2**40)}, eight),
        "backwards": tensors_file({"a": entry((2,), 8, 0)}, eight),
        "before the file": tensors_file({"a": entry((2,), -8, 0)}, eight),
        "true for one": tensors_file({"a": entry((True, 2))}, eight),
        "half a size": tensors_file({"a": entry((0.5, 4))}, eight),
        "many axes": tensors_file({"a": entry((1,) * 10_000 + (2,))}, eight),
        "an unknown type": tensors_file({"a": entry(dtype="O")}, eight),
        "a type that is a list": tensors_file({"a": entry(dtype=["F32"])}, eight),
        "twice": tensors_file(twice + b"," + twice[1:] + b"}", eight),
        "metadata twice": tensors_file(b'{"__metadata__":{},"__metadata__":{}}'),
        "metadata of numbers": tensors_file({"__metadata__": {"fwrl": 1}}),
        "metadata that is a list": tensors_file({"__metadata__": []}),
        "digits": tensors_file(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "deep": tensors_file(b"[" * 1_000_000),
        "deep inside": tensors_file(b'{"a":' * 100_000),
        "not a number": tensors_file(b'{"a":NaN}'),
        "infinity": tensors_file(b'{"a":1e999}'),
        "half a pair": tensors_file(b'{"\\udc00":' + json.dumps(entry()).encode() + b"}", eight),
        "not UTF-8": tensors_file(b'{"\xff":1}'),
        "UTF-16": tensors_file('{"a":1}'.encode("utf-16")),
        "many": tensors_file({str(i): entry((0,), 0, 0) for i in range(120_000)}),
        "other names": tensors_file({"__proto__": entry(), "../x": entry((0,), 0, 0)}, eight),
    }


def sealed(folder, file, data):
    """Write ``data`` as ``file`` and enter its size and hash in the manifest."""
    (folder / file).write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][file] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def manifests(good):
    """Hostile contents for a manifest, by name."""
    manifest = json.loads(good)
    files = manifest["files"]
    own = files["policy.safetensors"]

    def with_file(name, described=own):
        return json.dumps(manifest | {"files": files | {name: described}}).encode()

    many = {f"{i}.safetensors": own for i in range(999)}
    names = (
        "../policy.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors",
        "C:x.safetensors", "x.pkl", "__proto__", "", ".safetensors", "x.safetensors\n", "\x00",
    )  # fmt: skip
    descriptions = {
        "no size": {"sha256": own["sha256"]},
        "negative size": own | {"size": -1},
        "true size": own | {"size": True},
        "another size": own | {"size": own["size"] + 1},
        "a huge size": own | {"size": 10**18},
        "a list": [own["sha256"], own["size"]],
        "another hash": own | {"sha256": "0" * 64},
        "no hash": own | {"sha256": None},
        "format 1": own["sha256"],
    }
    documents = {"empty": {}, "a list for a policy": {"policy": []}, "text": {"policy": "x"}}
    return {
        "pickle": pickle.dumps(Trojan("/dev/null/never")),
        "empty": b"",
        "null": b"null",
        "deep": b'{"a":' * 200_000,
        "digits": b'{"format": ' + b"9" * 1_000_000 + b"}",
        "not a number": good.replace(b"1.6", b"NaN"),
        "infinite": good.replace(b"1.6", b"1e999"),
        "twice": b'{"format": 2, ' + good[1:],
        "not UTF-8": good.replace(b"policy", b"p\xfflicy"),
        "UTF-16": good.decode().encode("utf-16"),
        "many values": b"[" + b"[]," * 2_500_000 + b"1]",
        "too large": b" " * (17 * 2**20),
        "true format": good.replace(b'"format": 2', b'"format": true'),
        "half a format": good.replace(b'"format": 2', b'"format": 2.0'),
        "a list for a format": good.replace(b'"format": 2', b'"format": [2]'),
        "many files": json.dumps(manifest | {"files": many}).encode(),
        **{f"named {name!r}": with_file(name) for name in names},
        **{f"of {name}": with_file("policy.safetensors", d) for name, d in descriptions.items()},
        **{
            f"document {name}": json.dumps(
                manifest | {"document": d, "document_sha256": document_hash(d)}
            ).encode()
            for name, d in documents.items()
        },
    }  # fmt: skip


def document_hash(document):
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def special_files(outside):
    """Functions that make something other than a regular file at a path, by name."""
    return {
        "link": lambda path: path.symlink_to(outside),
        "link to nothing": lambda path: path.symlink_to(path.parent / "nowhere"),
        "link to itself": lambda path: path.symlink_to(path),
        "link to a device": lambda path: path.symlink_to("/dev/zero"),
        "pipe": os.mkfifo,
        "folder": lambda path: path.mkdir(),
        "a terabyte of nothing": lambda path: (path.touch(), os.truncate(path, 2**40)),
    }


def box(shape, dtype="float32", low=-1.0, high=1.0):
    return {"type": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}


def discrete(n):
    return {"type": "Discrete", "n": n, "start": 0, "dtype": "int64"}


def nested(levels, space, pack):
    for _ in range(levels):
        space = {"type": "Dict" if pack is dict else "Tuple", "spaces": pack([("a", space)])}
        if pack is not dict:
            space["spaces"] = [part for _, part in space["spaces"]]
    return space


def descriptions():
    """Descriptions of policies that demand too much or make no sense, by name."""
    good = describe_policy(honest_policy())

    def asking(**values):
        config = json.loads(json.dumps(good["config"]))
        for path, value in values.items():
            part, _, name = path.partition("__")
            config[part][name] = value
        return good | {"config": config}

    seen = {
        "a wide box": box([10**6, 10**6]),
        "a box of many axes": box([1] * 100),
        "a negative box": box([-5]),
        "a box behind a zero": box([0, 10**9]),
        "a box of objects": box([3], "O"),
        "a box of texts": box([3], "U1000000000"),
        "a box of structures": box([3], "i8,(1000000000,)f8"),
        "a box of nans": box([3], low="nan"),
        "a box of a word": box([3], low="word"),
        "a box of unequal lists": box([3], low=[1, [2], []]),
        "pixels": box([4, 30_000, 30_000], "uint8", 0, 255),
        "many symbols": discrete(10**12),
        "symbols beyond numbers": discrete(10**60),
        "no symbols": discrete(0),
        "factors": {"type": "MultiDiscrete", "nvec": [2] * 1_000_000, "dtype": "int64"},
        "wide factors": {"type": "MultiDiscrete", "nvec": [2**23, *[1] * 60_000], "dtype": "int64"},
        "factors that overflow": {"type": "MultiDiscrete", "nvec": [2**62] * 4, "dtype": "int64"},
        "bits": {"type": "MultiBinary", "shape": 10**12},
        "rows of bits": {"type": "MultiBinary", "shape": [10**6, 10**6]},
        "deep": nested(60, discrete(2), list),
        "many parts": {"type": "Tuple", "spaces": [discrete(2)] * 5000},
        "many boxes": {"type": "Tuple", "spaces": [box([2**22])] * 200},
        "a class": {"type": "os.system"},
        "parts that are a number": {"type": "Dict", "spaces": 3},
    }  # fmt: skip
    return {
        **{f"sees {name}": good | {"observation_space": space} for name, space in seen.items()},
        **{f"acts in {name}": good | {"action_space": space} for name, space in seen.items()},
        "width": asking(stack__width=10**9),
        "the largest width": asking(stack__width=2**18),
        "layers": asking(stack__layers=10**9),
        "many layers": asking(stack__layers=1024),
        "feed_forward": asking(stack__feed_forward=10**12),
        "heads": asking(core__heads=10**9),
        "key_size": asking(core__key_size=10**9),
        "num_features": asking(core__feature_map="favor", core__num_features=2**18),
        "nu": asking(core__feature_map="dpfp", core__nu=10**6),
        "short_convolution": asking(core__short_convolution=10**9),
        "image_features": asking(encoder__image_features=10**10),
        "time_frequencies": asking(encoder__time_frequencies=10**9),
        "a window": good | {"config": {"core": {"kind": "gtrxl", "window": 2**18}}},
        "basis functions": good
        | {"config": {"core": {"kind": "infinite_former", "basis_functions": 10**7}}},
        "a class for a core": good | {"config": {"core": {"kind": "os.system"}}},
        "nothing": {},
        "null": None,
    }


CONFIGS = {
    "a module": b"env: {id: 'os:system'}\ntotal_steps: 1",
    "a module by a wrapper": b"env: {id: GymV26Environment-v0, options: {env_id: 'os:x'}}\n"
    b"total_steps: 1",
    "python": b"env: !!python/object/apply:os.system ['touch marker']\n",
    "a python name": b"env: !!python/name:os.system\n",
    "a tag": b"env: !mine {id: x}\n",
    "a tag of a scalar": b"total_steps: !!int '3'\n",
    "laughs": b"a: &a [x, x]\n"
    + b"".join(b"%c: &%c [*%c, *%c]\n" % (i + 1, i + 1, i, i) for i in range(ord("a"), ord("y"))),
    "itself": b"&a [*a]",
    "deep": b"[" * 500_000,
    "deep in blocks": b"- " * 400_000,
    "digits": b"total_steps: " + b"9" * 900_000,
    "hexadecimal digits": b"total_steps: 0x" + b"f" * 900_000,
    "sixties": b"total_steps: " + b"1:" * 400_000 + b"1",
    "too large": b"# " + b"x" * 2**20,
    "twice": b"seed: 1\nseed: 2\n",
    "not UTF-8": b"seed: \xff\n",
    "a zero": b"seed: \x00\n",
    "escapes": b'"\\e]0;owned\\a\\n\\u2028": 1\n',
    "a key that is a list": b"? [a]\n: 1\n",
    "merged": b"<<: {seed: 1}\n",
    "__proto__": b"__proto__: {seed: 1}\n",
    "infinite": b"env: {id: x}\ntotal_steps: .inf\n",
    "threads": b"env: {id: x}\ntotal_steps: 1\nnum_threads: 1000000\n",
    "empty": b"",
    "pickle": pickle.dumps(partial(print)),
}

TABLES = {
    "not UTF-8": b"a,b\n\xff,1\n",
    "cells too many": b"a,b\n1,2,3\n",
    "columns twice": b"a,a\n1,2\n",
    "too large": b"a\n" * 3_000_000,
    "a large cell": b"a\n" + b"x" * 1_000_000,
    "a quote without end": b'a\n"x',
    "pickle": pickle.dumps(partial(print)) + b"\xff",
}
