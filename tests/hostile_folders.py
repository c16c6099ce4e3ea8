"""Structure-aware mutations of the other folders that farzi reads, with the hashes made to fit.

A model (`farzi train --out`), a prepared folder, a run and texts: headers, shapes, types, sizes,
numbers, records, lines, links, pipes, giants and bombs. Equal seeds give equal faults.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from farzi.distill.sealed import digest_of
from hostile_mutations import NASTY, change_bytes, mutate, places

HUGE: list[Any] = [1 << 20, 10**9, 1 << 31, 1 << 40, 1 << 63, 10**30]
Kind = Callable[[Path, random.Random, Path], str]


def mutate_folder(folder: Path, seed: int, outside: Path) -> str:
    """Change a model, a prepared folder or a run in place; return what was done, in words.

    Args:
        folder: what is changed.
        seed: of every choice.
        outside: a file outside, where links lead.
    """
    rng = random.Random(seed)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        with contextlib.suppress(Exception):  # an earlier fault may have left nothing to change
            done.append(_one_fault(folder, rng, outside))
    return "; ".join(done)


def _one_fault(folder: Path, rng: random.Random, outside: Path) -> str:
    if (folder / "artifact").is_dir() and rng.random() < 0.15:
        return "artifact: " + mutate(folder / "artifact", rng.getrandbits(32), outside)
    files = [p for p in sorted(folder.rglob("*")) if _is_ordinary(p) and p.name != "run.lock"]
    path = rng.choice([p for p in files if p.parent.name != "artifact"])
    if rng.random() < 0.12:
        return _place(path, rng, outside)
    if rng.random() < 0.12:
        return change_bytes(path, rng)
    by_suffix: Mapping[str, list[Kind]] = {
        ".safetensors": [_tensor, _tensor, _metadata, _metadata, _header],
        ".json": [_json],
        ".jsonl": [_line],
        ".npy": [_array, _array_header],
    }
    kind = rng.choice(by_suffix.get(path.suffix, [lambda p, r, o: change_bytes(p, r)]))
    return f"{path.name} {kind(path, rng, outside)}"


def _is_ordinary(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24


def _dump(value: Any) -> str:
    return json.dumps(value)


# ------------------------------------------------------------------------------------ tensors


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors, dict(file.metadata() or {})


def _store(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata; the hash of a sealed file is made to fit."""
    if "sealed" in metadata:
        with contextlib.suppress(Exception):
            sealed = json.loads(metadata["sealed"])
            sealed["sha256"] = digest_of(tensors, sealed["record"])
            metadata = {**metadata, "sealed": json.dumps(sealed)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)


def _tensor(path: Path, rng: random.Random, outside: Path) -> str:
    """Another shape, type, name or number of one tensor."""
    tensors, metadata = _load(path)
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    what = rng.choice(
        ["shape", "type", "number", "number", "drop", "rename", "add", "swap", "empty", "twice"]
    )
    if what == "shape":
        value = rng.choice(
            [value[None], value.reshape(-1), value.reshape(-1)[:1], value[..., :-1], value.mT]
            if value.ndim > 1
            else [value[None], value.reshape(-1)[:1], value[..., :-1]]
        )
    elif what == "type":
        kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
        value = value.to(rng.choice([*kinds, torch.float8_e4m3fn, torch.complex64, torch.float32]))
    elif what == "number":
        flat = value.reshape(-1)
        number = rng.choice([float("nan"), float("inf"), -float("inf"), 0.0, 1e38, -1.0, 7.0])
        if not value.is_floating_point():
            number = rng.choice([0, -1, 7, 1 << 62])
        flat[rng.randrange(len(flat)) if rng.random() < 0.7 else slice(None)] = number
    elif what == "empty":
        value = value[:0]
    elif what == "twice":
        value = torch.cat([value, value])
    tensors[name] = value
    if what == "drop":
        del tensors[name]
    elif what == "rename":
        odd = ["x", "", "../../x", "a\x1b[2Jb", "weights.0", ".", "a..b", f"{name}.x", "x" * 900]
        tensors[rng.choice(odd)] = tensors.pop(name)
    elif what == "add":
        odd = ["x", "0/params/x", "9/x", "best/x", "first/x", "lengths", "synthetic/labels"]
        tensors[rng.choice(odd)] = torch.ones(rng.choice([1, 3]))
    elif what == "swap":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()
    _store(path, tensors, metadata)
    return f"{what} of {name}"


def _metadata(path: Path, rng: random.Random, outside: Path) -> str:
    """Another value in the JSON that a file carries about itself."""
    tensors, metadata = _load(path)
    key = rng.choice(sorted(metadata))
    outer = json.loads(metadata[key])
    inner = json.loads(outer["record"]) if key == "sealed" and rng.random() < 0.9 else None
    changed, said = _changed(outer if inner is None else inner, rng)
    if inner is not None:
        outer["record"] = json.dumps(changed) if rng.random() < 0.98 else changed
        changed = outer
    text = json.dumps(changed)
    if rng.random() < 0.05:
        text = rng.choice(["", "[" * 60_000, "null", '{"record":', "9" * 5000, '"x"', "[1]"])
    if rng.random() < 0.03:
        metadata = rng.choice([{}, {"x": "y"}, {"student": text, "provenance": "{}"}])
        _store(path, tensors, metadata)
        return "other metadata"
    _store(path, tensors, {**metadata, key: text})
    return said


def _header(path: Path, rng: random.Random, outside: Path) -> str:
    """Another field in the header, or another size of it; an absurd one, with a file to match."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = rng.choice([key for key in header if key != "__metadata__"])
    what = rng.choice(["dtype", "shape", "offsets", "size", "bomb", "giant", "text"])
    entry = header[name]
    if what == "dtype":
        entry["dtype"] = rng.choice(["F16", "F64", "I8", "I64", "U8", "BOOL", "F4", 1, None])
    elif what == "shape":
        entry["shape"] = rng.choice([[], [0], [1 << 40, 1 << 40], [-1], ["1"], [10**30], None])
    elif what == "offsets":
        entry["data_offsets"] = rng.choice([[0, 0], [-1, 4], [0, 1 << 40], [8, 4], [], None])
    elif what == "bomb":
        huge = rng.choice(HUGE[:4])
        entry |= {"shape": [huge], "data_offsets": [0, 4 * huge]}
    elif what == "giant":
        huge = rng.choice([1 << 33, 1 << 36])
        entry |= {
            "dtype": "F32",
            "shape": [huge],
            "data_offsets": [len(data), len(data) + 4 * huge],
        }
    text = json.dumps(header).encode()
    if what == "text":
        text = rng.choice([b"", b"[]", b"{", b"[" * 60_000, b"\xff\xfe", b"null", b" " * (1 << 17)])
    length = rng.choice([0, 7, 1 << 40, (1 << 64) - 1]) if what == "size" else len(text)
    path.write_bytes(struct.pack("<Q", length) + text + data)
    if what == "giant":
        os.truncate(path, 8 + len(text) + entry["data_offsets"][1])
    return f"header {what} of {name}"


# --------------------------------------------------------------------------------------- JSON


def _changed(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A JSON value with one of its values changed, dropped, added or nested."""
    paths = list(places(value))
    if not paths or rng.random() < 0.03:
        return rng.choice(NASTY), "another value"
    path = rng.choice(paths)
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    what = rng.choice(["set", "set", "set", "huge", "drop", "add", "nest", "near"])
    old = owner[path[-1]]
    if what == "drop":
        del owner[path[-1]]
    elif what == "add":
        if isinstance(owner, dict):
            owner[rng.choice(["extra", "a\x1b[2Jb", "x" * 500, "\ud800"])] = rng.choice(NASTY)
        else:
            owner.append(rng.choice(NASTY))
    elif what == "nest":
        deep: Any = 1
        for _ in range(rng.choice([5, 900])):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        owner[path[-1]] = deep
    elif what == "huge":
        owner[path[-1]] = rng.choice(HUGE) * rng.choice([1, 1, -1])
    elif what == "near" and isinstance(old, int | float) and not isinstance(old, bool):
        owner[path[-1]] = rng.choice([old + 1, old - 1, 2 * old, -old, 0, float(old)])
    else:
        owner[path[-1]] = rng.choice(NASTY)
    return value, f"{what} {'.'.join(map(str, path))}"[:100]


def _json(path: Path, rng: random.Random, outside: Path) -> str:
    """Another value of a JSON file, or a text that is none."""
    changed, said = _changed(json.loads(path.read_text()), rng)
    content = _dump(changed).encode()
    if rng.random() < 0.2:
        place = rng.randrange(len(content))
        put = rng.choice([b"", b'"', b"}", b",", b"\xff", b"9" * 5000, b"[" * 60_000, b"\n"])
        content = content[:place] + put + content[place + rng.choice([0, 1, 5]) :]
        said += f", text at {place}"
    path.write_bytes(content)
    return said


def _line(path: Path, rng: random.Random, outside: Path) -> str:
    """Another value in a line of JSON, or another order of the lines."""
    lines = path.read_text().splitlines()
    number = rng.randrange(len(lines))
    what = rng.choice(["value", "value", "value", "drop", "twice", "order", "text", "odd"])
    if what == "value":
        changed, said = _changed(json.loads(lines[number]), rng)
        lines[number], what = _dump(changed), said
    elif what == "drop":
        del lines[number]
    elif what == "twice":
        lines.insert(number, lines[number])
    elif what == "order":
        rng.shuffle(lines)
    elif what == "text":
        lines[number] = lines[number][: rng.randrange(len(lines[number]))]
    else:
        odd = ["", "null", "[]", "1", "[" * 60_000, "9" * 5000, '{"step": true}', "\ufeff{}"]
        lines[number] = rng.choice([*odd, '{"step": 1e400}', '{"step": 0, "fresh_loss": NaN}'])
    path.write_text("\n".join(lines) + "\n")
    return f"line {number} {what}"


# ------------------------------------------------------------------------------------- arrays


def _array(path: Path, rng: random.Random, outside: Path) -> str:
    """Another type, shape or number of an array."""
    array = np.load(path)
    what = rng.choice(["number", "number", "type", "shape", "empty", "order", "longer"])
    if what == "number":
        array[rng.randrange(len(array))] = rng.choice([-1, 0, 1, 5, 1 << 20, (1 << 31) - 1])
    elif what == "type":
        array = array.astype(rng.choice(["i8", "i4", "u4", "f4", ">i4", ">i8", "S4", "?", "c8"]))
    elif what == "shape":
        array = rng.choice([array[None], array[:-1], array[1:], array.reshape(-1, 1), array[0]])
    elif what == "empty":
        array = array[:0]
    elif what == "order":
        array = array[::-1].copy()
    else:
        array = np.concatenate([array, array])
    np.save(path, array)
    return what


def _array_header(path: Path, rng: random.Random, outside: Path) -> str:
    """Another header of an array: shape, type, text; an absurd size, with a file to match."""
    content = path.read_bytes()
    (size,) = struct.unpack("<H", content[8:10])
    header = ast.literal_eval(content[10 : 10 + size].decode())
    data = content[10 + size :]
    what = rng.choice(["shape", "shape", "descr", "text", "version", "giant", "pickle", "key"])
    huge = rng.choice(HUGE)
    if what in ("shape", "giant"):
        odd = [(huge,), (huge, huge), (-1,), (0,), (), (1.5,), "x", (True,), (1,) * 70, None]
        header["shape"] = (rng.choice([1 << 31, 1 << 37]),) if what == "giant" else rng.choice(odd)
    elif what == "descr":
        odd = ["|O", "O", "<f8", "<i2", "x", "", [("a", "<i4")], "<V9999999", None, "<i4" * 99]
        header["descr"] = rng.choice(odd)
    elif what == "pickle":
        header["descr"], data = "|O", b"\x80\x04cposix\nsystem\n(S'touch /tmp/escaped'\ntR."
    elif what == "key":
        header[rng.choice(["fortran_order", "x"])] = rng.choice([None, "x", 5, True])
    text = repr(header).encode()
    if what == "text":
        calls = [b"__import__('os')", b"(" * 9000, b"1" * 9000, b"{", b"\xff", b"[" * 60_000]
        text = rng.choice(calls)
    magic = rng.choice([b"\x93NUMPY\x09\x00", b"\x93NUMPX\x01\x00", b"\x93NUMPY\x03\x00"])
    start = magic if what == "version" else b"\x93NUMPY\x01\x00"
    path.write_bytes(start + struct.pack("<H", len(text) + 1) + text + b"\n" + data)
    if what == "giant":
        width = 4 if path.name.endswith("tokens.npy") else 8
        os.truncate(path, 10 + len(text) + 1 + width * header["shape"][0])
    return f"header {what}"


def _place(path: Path, rng: random.Random, outside: Path, *, links: bool = True) -> str:
    """Put a link, a pipe, a folder, a giant or nothing where a file was."""
    leading = ["link", "link beside"] if links else []  # a user's own texts may be links
    what = rng.choice([*leading, "pipe", "folder", "giant", "nothing", "loop"])
    if what == "giant":
        # Zeros after what is packed are padding, which is read to its end.
        os.truncate(path, rng.choice([1 << 33, 1 << 40] if links else [1 << 26]))
        return f"{what} {path.name}"
    kept = outside.parent / f"kept-{path.name}"
    kept.unlink(missing_ok=True)
    shutil.move(path, kept)
    if what == "link":
        path.symlink_to(rng.choice([outside, kept, Path("/dev/zero"), Path("/etc/passwd")]))
    elif what == "link beside":
        others = [other for other in sorted(path.parent.iterdir()) if _is_ordinary(other)]
        path.symlink_to(rng.choice(others))
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "loop":
        path.symlink_to(path)
    return f"{what} {path.name}"


# -------------------------------------------------------------------------------------- texts


def mutate_text(folder: Path, seed: int, outside: Path) -> str:
    """Change `folder`, which holds texts, as someone who knows what a text may be would."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    packed = path.suffix == ".gz"
    text = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode()
    lines = text.splitlines()
    number = rng.randrange(len(lines))
    what = rng.choice(
        [
            "encoding", "bom", "nul", "half", "ends", "blank", "long line", "long word", "escape",
            "special", "empty", "one", "pack", "cut pack", "twice packed", "bomb", "place", "bytes",
            "shuffle", "many", "combining", "name",
        ]
    )  # fmt: skip
    content: bytes | None = None
    if what == "encoding":
        content = text.encode(rng.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"]))
    elif what == "bom":
        put = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf" * 2])
        content = put + text.encode()
    elif what == "nul":
        lines[number] = lines[number][:5] + "\x00" * rng.choice([1, 9000]) + lines[number][5:]
    elif what == "half":
        place = rng.randrange(len(text))
        odd = rng.choice([b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xff"])
        content = text[:place].encode() + odd + text[place:].encode()
    elif what == "ends":
        ends = rng.choice(["\r\n", "\r", "\x85", "\u2028", "\v", "\x1c", "\n\n\n"])
        content = ends.join(lines).encode()
    elif what == "blank":
        lines[number] = rng.choice(["", " ", "\t" * 5000, "\u3000", "\u200b", "\xa0"])
    elif what == "long line":
        lines[number] = lines[number] * rng.choice([50, 20_000])
    elif what == "long word":
        lines[number] += " " + rng.choice("aé💿") * rng.choice([2000, 300_000])
    elif what == "escape":
        lines[number] += rng.choice([" \x1b[2J", " \x07", " \u202e\u2066", " \x9b1m", " \x7f"])
    elif what == "special":
        lines[number] += rng.choice([" <unk>", " <eos>", " <pad>", " <eos> <eos>", " = x = "])
    elif what == "empty":
        content = rng.choice([b"", b"\n", b" ", b"\n" * 5000, b"\xef\xbb\xbf"])
    elif what == "one":
        lines = [rng.choice(["word", "a b c", "<unk>", "<eos>"])] * rng.choice([1, 2, 400])
    elif what == "shuffle":
        rng.shuffle(lines)
    elif what == "many":
        lines = [f"w{index}" for index in range(rng.choice([3, 20_000]))]
    elif what == "combining":
        lines[number] = "e" + "\u0301" * rng.choice([1, 5000]) + lines[number]
    made = content if content is not None else ("\n".join(lines) + "\n").encode()
    if what == "bytes":
        made_bytes = bytearray(made)
        for _ in range(rng.choice([1, 3, 50])):
            made_bytes[rng.randrange(len(made_bytes))] = rng.randrange(256)
        made = bytes(made_bytes)
    if packed or what in ("pack", "twice packed", "bomb"):
        made = _packed(made, what, rng)
    elif what == "cut pack":
        made = b"\x1f\x8b" + made
    path.write_bytes(made)
    if what == "place":
        return _place(path, rng, outside, links=False)
    if what == "name":
        odd = [
            "a\x1b[2Jb.txt",
            "x\ny.txt",
            "--out.txt",
            "é" * 60 + ".txt",
            ".txt",
            "x.csv",
            "x.npy",
        ]
        path.rename(path.with_name(rng.choice(odd)))
    return f"{what} {path.name}"


def _packed(content: bytes, what: str, rng: random.Random) -> bytes:
    if what == "bomb":
        content = rng.choice([b" ", b"\x00", b"a"]) * (20 << 20)
    made = gzip.compress(content, 1, mtime=0)
    if what == "twice packed":
        return gzip.compress(made, mtime=0)
    if what == "cut pack":
        return made[: rng.randrange(len(made))]
    if what == "bytes":
        damaged = bytearray(made)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        return bytes(damaged)
    return made
