"""Inputs for readers: arbitrary bytes, valid files with mutations, and mutated trees of plain values."""

import copy
import json

from hypothesis import strategies as st

NASTY = tuple(
    text.encode("utf-8", "surrogatepass")
    for text in (
        *("", " ", "0", "-1", "--1", "-", "+5", "1.5", "9" * 19, "9" * 400, "9" * 5000, "1e999", "nan", "NaN", "inf"),
        *(
            "٣",
            "²",
            "\uff11",
            "1_0",
            "0x10",
            "true",
            "null",
            "\0",
            "\ufeff",
            "\r",
            "\r\n",
            "\n\n",
            "\u2028",
            "\x85",
            "\x1c",
        ),
        *('"', "'", '"""', ",", ",,,", "\t", "\t\t", " 5 5", "../x.mp4", "/etc/passwd", "a\\b", "a/./b", ".", "~"),
        *("x" * 300, "é" * 200, "😀", "\ud800", "x" * 140_000, " " * 20_000, "a " * 10_000, "1 " * 10_000),
    )
)
"""Texts that readers are known to stumble over; the long ones pass csv's limit of a field."""

NASTY_JSON = (
    *(None, True, False, 0, -1, 1, 2, 1.5, -0.0, 2**31, 2**63, -(2**63), 2**64, 10**400, 1e308, float("nan")),
    *(float("inf"), "", "x", "x" * 300, "é", "\0", "\ud800", "nan", "5", "../x", [], [1], [[]], [None], ["a", 1]),
    *([0.5] * 4, {}, {"a": 1}, {"": {}}, [0] * 1000, {str(number): number for number in range(100)}),
)


def a_byte(draw, data):
    """A position in the data."""
    return draw(st.integers(0, max(0, len(data) - 1)))


def _flip(draw, data, seeds, nasty):
    at = a_byte(draw, data)
    return data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _cut(draw, data, seeds, nasty):
    return data[: a_byte(draw, data)]


def _cut_out(draw, data, seeds, nasty):
    at = a_byte(draw, data)
    return data[:at] + data[at + draw(st.integers(1, 40)) :]


def _splice(draw, data, seeds, nasty):
    other = draw(st.sampled_from(seeds))
    return data[: a_byte(draw, data)] + other[a_byte(draw, other) :]


def _insert(draw, data, seeds, nasty):
    at = a_byte(draw, data)
    return data[:at] + draw(st.sampled_from(nasty)) + data[at:]


def _random(draw, data, seeds, nasty):
    at = a_byte(draw, data)
    return data[:at] + draw(st.binary(min_size=1, max_size=20)) + data[at + draw(st.integers(0, 20)) :]


def _lines(draw, data, seeds, nasty):
    """A line twice, out of its place or not at all."""
    lines = data.split(b"\n")
    line = lines.pop(draw(st.integers(0, len(lines) - 1)))
    for _ in range(draw(st.integers(0, 2))):
        lines.insert(draw(st.integers(0, len(lines))), line)
    return b"\n".join(lines)


def _fields(draw, data, seeds, nasty):
    """A field of a line replaced, doubled or left out."""
    lines = data.split(b"\n")
    at = draw(st.integers(0, len(lines) - 1))
    between = draw(st.sampled_from([b"\t", b",", b" ", b": "]))
    fields = lines[at].split(between)
    number = draw(st.integers(0, len(fields) - 1))
    fields[number : number + 1] = draw(st.sampled_from([[], [fields[number]] * 2])) or [draw(st.sampled_from(nasty))]
    lines[at] = between.join(fields)
    return b"\n".join(lines)


CHANGES = (_flip, _cut, _cut_out, _splice, _insert, _random, _lines, _fields, _fields, _lines)


@st.composite
def mutated(draw, seeds, nasty=NASTY):
    """One of the valid files with one to four mutations."""
    data = draw(st.sampled_from(seeds))
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=4)):
        data = change(draw, data, seeds, nasty)
    return data


def any_file(seeds, nasty=NASTY):
    """Arbitrary bytes, arbitrary text, or a mutation of a valid file; the last most often."""
    text = st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    changed = mutated(seeds, nasty)
    return st.one_of(st.binary(max_size=200), text, changed, changed, changed)


@st.composite
def changed_tree(draw, tree):
    """A tree of dicts, lists and values with one to three places replaced, removed, renamed or added."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places({"": tree})))
        action = draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "wrap"]))
        value = copy.deepcopy(draw(st.sampled_from(NASTY_JSON)))  # the next change may go into it
        if action == "remove" and holder is not None:
            del holder[key]
        elif action == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "x", "seed", f"{key} ", "\0"]))] = holder.pop(key)
        elif action == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["", "x", "seed", "default", "\ud800"]))] = value
        elif action == "wrap" and holder is not None:
            holder[key] = [holder[key]]
        elif holder is not None:
            holder[key] = value
        else:
            tree = value
        if not isinstance(tree, (dict, list)):
            break
    return tree


def _places(root):
    """Every place of a tree: what holds it, and its key or position; None for the tree itself."""
    places, waiting = [], [root[""]]
    while waiting:
        holder = waiting.pop()
        items = list(holder.items()) if isinstance(holder, dict) else list(enumerate(holder))
        places += [(holder, key) for key, _ in items]
        waiting += [value for _, value in items if isinstance(value, (dict, list))]
    return [*places, (None, "")]
