"""Parameter files that are damaged or hostile: odd values in every place, odd YAML, bytes that are mangled."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import random
from typing import Any

import yaml

from tests.project import ROOT
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import load_params

JUNK = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3.5,
    -0.0,
    1e-300,
    1e308,
    -1e308,
    10**18,
    10**30,
    10**400,
    -(10**30),
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "null",
    "nan",
    "inf",
    "1e-5",
    "0x10",
    "1_000",
    "demo",
    "demo-masked",
    "demo:",
    "demo:x",
    "/",
    "..",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "~",
    "~nobody/x",
    "C:\\x",
    "a/b",
    "a/b@c",
    "a@b/c",
    "hf:a/b@c/d",
    "pickapic:hf:a/b@c/train",
    "hpdv2:x",
    "http://127.0.0.1:9/x",
    "file:///etc/passwd",
    "x" * 300,
    "x" * 100_000,
    "\x00",
    "a\x00b",
    "\ud800",
    "\u2028",
    "é" * 40,
    "𝕏",
    "\x1b[31mred\x1b[0m",
    "{{7*7}}",
    "$(id)",
    "%s%n",
    "[bold]x[/bold]",
    "[/nope]",
    "module:function",
    "os:system",
    "os:getcwd",
    "builtins:exec",
    "clip=demo",
    "=demo",
    "clip=",
    "hpsv2.1=demo",
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": 1},
    {"": ""},
    {1: 2},
    {None: None},
    {True: False},
    [["a"] * 20] * 20,
    {"a": {"b": {"c": {"d": {}}}}},
    "2024-01-01",
    b"\x00\xff",
    ["demo"],
    {"demo": "demo"},
    "cuda:99",
    "cpu",
    "mps",
    "meta",
    "xla",
    "auto",
    "none",
    "tgo",
    "tgo/sd15",
    "mean_z",
    "oracle",
    "all",
    "base",
    "tuned",
]
TEXTS = [
    "",
    " ",
    "\n",
    "---\n",
    "--- a\n--- b\n",
    "null\n",
    "[]\n",
    "a\n",
    "1\n",
    "{",
    "}",
    "[",
    "a: [",
    "\t",
    "a:\tb\n: x",
    "? a\n: b",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "&a [*a]\n",
    "a: &a {b: *a}\n",
    "seed: &s [*s]\n",
    "<<: 1\n",
    "<<: [1]\n",
    "<<: {seed: 1}\n",
    "<<: &m {seed: 1, <<: *m}\n",
    "!!python/object/apply:os.system ['touch code_was_run']\n",
    "!!python/name:os.system\n",
    "seed: !!python/object/new:os.system [touch code_was_run]\n",
    "seed: !!int x\n",
    "seed: !!int ''\n",
    "seed: !!float x\n",
    "seed: !!timestamp x\n",
    "seed: !!binary x=\n",
    "seed: !!set {a}\n",
    "seed: !!omap [a: 1]\n",
    "seed: !!pairs [a: 1]\n",
    "seed: !!bool x\n",
    "seed: !unknown x\n",
    "seed: 1:99\n",
    "seed: 190:20:30\n",
    "seed: 0o7\n",
    "seed: 0b\n",
    "seed: 0x\n",
    "seed: 2024-99-99\n",
    "seed: 2024-01-01T99:99:99\n",
    "seed: 09\n",
    "seed: _\n",
    "seed: 1__0\n",
    "seed: .\n",
    "seed: =\n",
    "seed: 1\nseed: 2\n",
    "a: {b: 1, b: 2}\n",
    "*x\n",
    "%YAML 9.9\n---\na: 1\n",
    "%TAG ! x\n---\na: 1\n",
    "\ufeffseed: 1\n",
    "a: " + "[" * 3000 + "]" * 3000 + "\n",
    "a: " + "{a: " * 3000 + "}" * 3000 + "\n",
    "- " * 3000 + "\n",
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "score:\n  rewards: &a {x: demo}\n" + "prompts: {train: *a}\n",
    "a: !!merge x\n",
    "!!map [a]\n",
    "!!seq {a: b}\n",
    "!!str {a: b}\n",
    "a: >\n",
    "a: |9\n x\n",
    "'\n",
    '"\\x"\n',
    '"\\ud800": 1\n',
    'seed: "\\ud800"\n',
    'model: "\\ud800\\udc00"\n',
    "\x00",
    "a: \x07\n",
    "a: \x85b\n",
    "a: \u2028b\n",
]


def seeds() -> list[dict]:
    """The demo's parameters and every recipe as they are, with every default spelled out, and with every section."""
    recipes = sorted((ROOT / "tgo_pipeline/params/recipe_files").glob("*.yaml"))
    found: list[dict] = []
    for path in [ROOT / "params.yaml", *recipes]:
        found.append(yaml.safe_load(path.read_text()))
        with contextlib.suppress(TgoError):
            found.append(dataclasses.asdict(load_params(path)))
    full = copy.deepcopy(found[0])
    full["score"]["feedback"] = {
        "stars": {"source": "ratings.csv", "kind": "rating", "rater": "rater", "low": 1, "high": 5}
    }
    full["evaluate"]["models"] = {"other": "demo"}
    full["generate"]["guidance"] = {"kind": "cpgd", "positive": "a", "negative": "b", "strength": 1.0}
    full["fine_tune"] |= {
        "reestimate": {"prompts": 4},
        "lora": {"rank": 4, "target_modules": ["a"]},
        "ema": 0.9,
    }
    return [*found, full]


def places(value, path=()) -> list[tuple]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key in value:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            found += places(value[index], (*path, index))
    return found


def get(value, path):
    for key in path:
        value = value[key]
    return value


def mutate(numbers: random.Random, base: dict) -> tuple[object, list[tuple]]:
    """A changed copy, and the paths that were changed."""
    changed = copy.deepcopy(base)
    touched = []
    for _ in range(numbers.choice([1, 1, 1, 1, 2, 3])):
        where = numbers.choice(places(changed) or [()])
        if not where:
            return numbers.choice(JUNK), []
        parent = get(changed, where[:-1])
        key = where[-1]
        what = numbers.randrange(8)
        touched.append(where)
        if what == 0 and isinstance(parent, dict):
            del parent[key]
            touched[-1] = where
        elif what == 1 and isinstance(parent, dict):
            other = numbers.choice(
                [
                    str(key)[:-1],
                    str(key) + "x",
                    str(key).upper(),
                    "",
                    " ",
                    "é",
                    1,
                    None,
                    3.5,
                    "\u2028",
                    "a.b",
                    "__class__",
                    "x" * 500,
                    True,
                    "\x1b[2J",
                ]
            )
            parent[other] = parent.pop(key)
            touched[-1] = (*where[:-1], other)
        elif what == 2 and isinstance(parent, dict):
            other = numbers.choice(["extra", "", "Seed", "percentil", 7, None, "\ud800", "<b>"])
            parent[other] = numbers.choice(JUNK)
            touched[-1] = (*where[:-1], other)
        elif what == 3 and isinstance(parent[key], (int, float)) and not isinstance(parent[key], bool):
            parent[key] = numbers.choice(
                [
                    -parent[key],
                    parent[key] * 10**9,
                    parent[key] * 1e-9,
                    str(parent[key]),
                    parent[key] + 0.5,
                    [parent[key]],
                    float(parent[key]),
                ]
            )
        elif what == 4:
            donor = numbers.choice(places(base))
            parent[key] = copy.deepcopy(get(base, donor))
        else:
            parent[key] = copy.deepcopy(numbers.choice(JUNK))
    return changed, touched


def dump(value: Any) -> bytes:
    """YAML of any value; JSON where YAML has no word for it."""
    try:
        return yaml.dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, UnicodeError, TypeError, ValueError):
        return json.dumps(value, default=str).encode("utf-8", "replace")


def mangle(numbers: random.Random, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(numbers.choice([1, 1, 2, 4, 16])):
        place = numbers.randrange(len(data) + 1)
        what = numbers.randrange(6)
        if what == 0:
            data[place : place + numbers.randrange(1, 40)] = b""
        elif what == 1:
            data[place:place] = numbers.choice(
                [
                    b":",
                    b"\t",
                    b"\n",
                    b"- ",
                    b"[",
                    b"}",
                    b"&a ",
                    b"*a",
                    b"!!int ",
                    b"<<: ",
                    b"'",
                    b'"',
                    b"\x00",
                    b"\xff",
                    b"#",
                    b"|",
                    b">",
                    b"%",
                    b"? ",
                    b"!",
                    b"~",
                    b"\xe2\x80\xa8",
                ]
            )
        elif what == 2 and place < len(data):
            data[place] ^= 1 << numbers.randrange(8)
        elif what == 3:
            other = numbers.randrange(len(data) + 1)
            data[place:place] = data[other : other + numbers.randrange(1, 60)]
        elif what == 4:
            del data[place:]
        else:
            data[place:place] = numbers.randbytes(numbers.randrange(1, 9))
    return bytes(data)


def generate(numbers: random.Random, turn: int, bases: list[dict]) -> tuple[bytes, list[tuple]]:
    """The text of one parameter file, and the keys in it that were changed."""
    if turn < len(TEXTS):
        return TEXTS[turn].encode("utf-8", "surrogatepass"), []
    kind = numbers.random()
    if kind < 0.2:
        return mangle(numbers, dump(numbers.choice(bases))), []
    if kind < 0.24:
        return dump(numbers.choice(bases)) + numbers.choice(TEXTS).encode("utf-8", "surrogatepass"), []
    value, touched = mutate(numbers, numbers.choice(bases))
    return dump(value), touched
