"""Tables that are damaged, or not what was expected; texts that are not what their name says; mangled bytes."""

from __future__ import annotations

import json
import random
import struct

import pyarrow as pa

COMMANDS = {
    "data/prompts.parquet": (
        ("run", "generate"),
        ("status",),
        ("run", "threshold"),
        ("run", "evaluate"),
        ("run", "report"),
    ),
    "data/generations": (
        ("run", "score"),
        ("status",),
        ("run", "threshold"),
        ("run", "label"),
        ("run", "fine_tune"),
        ("run", "report"),
    ),
    "data/scores": (
        ("run", "threshold"),
        ("run", "label"),
        ("run", "score"),
        ("status",),
        ("run", "fine_tune"),
        ("run", "report"),
        ("run", "evaluate"),
    ),
    "data/thresholds.parquet": (
        ("run", "label"),
        ("thresholds",),
        ("status",),
        ("run", "evaluate"),
        ("run", "report"),
    ),
    "data/baselines.parquet": (("run", "label"), ("run", "report")),
    "data/adequacy.parquet": (("thresholds", "--explain"), ("run", "report")),
    "data/labels": (("run", "fine_tune"), ("status",), ("run", "report"), ("run", "label")),
    "data/evaluation.parquet": (
        ("evaluation",),
        ("evaluation", "--format", "tex"),
        ("run", "report"),
        ("card",),
    ),
    "data/evaluation/samples.parquet": (("run", "report"), ("run", "evaluate")),
    "data/evaluation/models.parquet": (("evaluation", "--table", "models"), ("run", "report")),
    "data/evaluation/matrix.parquet": (
        ("evaluation", "--matrix"),
        ("run", "report"),
        ("evaluation", "--matrix", "--format", "md"),
    ),
    "data/evaluation/hacking.parquet": (("evaluation", "--table", "hacking"), ("run", "report")),
}


def changed_table(numbers: random.Random, table):
    """(what was done, the table) with one thing that another tool, or an attacker, may have done."""
    names = table.column_names
    name = numbers.choice(names)
    place = names.index(name)
    rows = table.num_rows
    what = numbers.choice(
        [
            "drop",
            "cast",
            "null",
            "one null",
            "empty",
            "nan",
            "inf",
            "huge",
            "text",
            "metadata",
            "double",
            "reverse",
            "duplicate column",
            "rename",
            "no metadata",
            "list",
            "dictionary",
            "large",
            "negative",
            "shuffle",
            "one row",
            "metadata type",
            "view",
        ]
    )
    kind = table.schema.field(name).type
    try:
        if what == "drop":
            table = table.drop_columns([name])
        elif what == "cast":
            table = table.set_column(
                place,
                name,
                pa.array([str(i) for i in range(rows)])
                if not pa.types.is_string(kind)
                else pa.array(range(rows)),
            )
        elif what == "null":
            table = table.set_column(place, table.schema.field(name), pa.nulls(rows, kind))
        elif what == "one null":
            values = table[name].to_pylist()
            values[numbers.randrange(rows)] = None
            table = table.set_column(place, table.schema.field(name), pa.array(values, kind))
        elif what == "empty":
            table = table.slice(0, 0)
        elif what in ("nan", "inf", "huge", "negative"):
            value = {"nan": float("nan"), "inf": float("inf"), "huge": 1e38, "negative": -1}[what]
            names = [
                f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)
            ]
            if names:
                name = numbers.choice(names)
                place, kind = table.column_names.index(name), table.schema.field(name).type
                values = table[name].to_pylist()
                for row in numbers.sample(range(rows), max(1, rows // numbers.choice([1, 2, rows]))):
                    values[row] = (
                        value
                        if pa.types.is_floating(kind)
                        else -1
                        if what == "negative"
                        else 2**31 - 1
                        if pa.types.is_int32(kind)
                        else 2**62
                    )
                table = table.set_column(place, table.schema.field(name), pa.array(values, kind))
        elif what == "text":
            names = [f.name for f in table.schema if pa.types.is_string(f.type)]
            if names:
                name = numbers.choice(names)
                junk = numbers.choice(
                    [
                        "",
                        "\x1b[31m",
                        "a" * 100_000,
                        "</script><script>x</script>",
                        "\x00",
                        "\u2028",
                        "../../x",
                        "[/red]",
                        "é",
                    ]
                )
                values = table[name].to_pylist()
                values[numbers.randrange(rows)] = junk
                what = f"text {junk[:12]!r}"
                table = table.set_column(
                    table.column_names.index(name), table.schema.field(name), pa.array(values, pa.string())
                )
        elif what in ("metadata", "metadata type"):
            content = json.loads((table.schema.metadata or {}).get(b"tgo", b"{}"))
            if what == "metadata":
                junk = numbers.choice(
                    [
                        b"",
                        b"{",
                        b"[]",
                        b"null",
                        b"1",
                        b'"x"',
                        b"\xff",
                        b'{"fingerprint": 1}',
                        b"[" * 100_000,
                        b'{"failed": "x"}',
                        json.dumps({**content, "failed": "x"}).encode(),
                        json.dumps({**content, "failed": None}).encode(),
                    ]
                )
            else:
                key = numbers.choice(list(content) or ["failed"])
                junk = json.dumps(
                    {**content, key: numbers.choice([None, [], {}, "x", -1, 1e400, True, [[]], {"a": None}])}
                ).encode()
                what = f"metadata {key}"
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"tgo": junk})
            what += f" {junk[:40]!r}"
        elif what == "double":
            table = pa.concat_tables([table, table])
        elif what == "reverse":
            table = table.take(list(range(rows))[::-1])
        elif what == "shuffle":
            order = list(range(rows))
            numbers.shuffle(order)
            table = table.take(order)
        elif what == "one row":
            table = table.slice(numbers.randrange(rows), 1)
        elif what == "duplicate column":
            table = table.append_column(table.schema.field(name), table[name])
        elif what == "rename":
            table = table.rename_columns([f"{x}x" if x == name else x for x in table.column_names])
        elif what == "no metadata":
            table = table.replace_schema_metadata(None)
        elif what == "list":
            table = table.set_column(place, name, pa.array([[None]] * rows))
        elif what == "dictionary":
            table = table.set_column(place, name, table[name].combine_chunks().dictionary_encode())
        elif what == "large":
            table = table.set_column(place, name, table[name].cast(pa.large_string()))
        elif what == "view":
            table = table.set_column(place, name, table[name].cast(pa.string_view()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError, OverflowError):
        return f"{what} {name} (as it was)", table
    return f"{what} {name}", table


TEXT_JUNK = [
    b"",
    b"\n",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b'"\n' * 5,
    b",,,,\n",
    b"prompt\n",
    b"prompt\n\n\n",
    b"prompt,prompt\na,b\n",
    b"prompt\n" + b"a" * 200_000 + b"\n",
    b'prompt\n"' + b"a" * 10_000 + b"\n",
    b"prompt\r\na\r\nb\r",
    b"{}\n",
    b"[]\n",
    b"1\n",
    b"null\n",
    b'{"prompt": null}\n',
    b'{"prompt": 1}\n',
    b'{"prompt": ["a"]}\n',
    b'{"prompt": "\\ud800"}\n',
    b'{"prompt": NaN}\n',
    b"[" * 100_000 + b"\n",
    b'{"prompt": ' + b"9" * 5000 + b"}\n",
    b'{"prompt":"a","prompt":"b"}\n',
    b'{"a":' * 20_000,
    b"prompt\na\x0bb\x0cc\x1cd\xc2\x85e\xe2\x80\xa8f\n",
    b"prompt\n" + "\u202ea\u200b\n".encode(),
    b"prompt;other\na;b\n",
    b"file_name,prompt\n,\n",
    b"file_name,prompt\n/etc/passwd,x\n",
    b"file_name,prompt\n../../../etc/passwd,x\n",
    b"file_name,prompt\na\x00b.png,x\n",
    b"file_name,prompt\n" + b"a/" * 3000 + b"b.png,x\n",
    b"file_name,prompt\n~/x.png,x\n",
    b"file_name,prompt\n.,x\n",
    b"file_name,prompt\nhttp://127.0.0.1:9/x.png,x\n",
    b"file_name,prompt,prompt\na,b,c\n",
]


def mangle(numbers: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(numbers.choice([1, 1, 1, 2, 4, 12])):
        size = len(changed)
        if not size:
            return bytes(numbers.randbytes(20))
        place = numbers.choice(
            [
                numbers.randrange(size),
                numbers.randrange(min(size, 64)),
                size - 1 - numbers.randrange(min(size, 400)),
            ]
        )
        what = numbers.randrange(7)
        if what == 0:
            changed[place] ^= 1 << numbers.randrange(8)
        elif what == 1:
            changed[place] = numbers.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif what == 2:
            del changed[place:]
        elif what == 3:
            changed[place : place + numbers.randrange(1, 64)] = b""
        elif what == 4:
            changed[place:place] = numbers.randbytes(numbers.randrange(1, 64))
        elif what == 5:
            value = numbers.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 0x10000, 65535])
            changed[place : place + 4] = struct.pack(numbers.choice("<>") + "I", value)
        else:
            other = numbers.randrange(size)
            length = numbers.randrange(1, 64)
            changed[place : place + length] = changed[other : other + length]
    return bytes(changed)
