"""Names and messages as they may be shown. They may come from anywhere, so what is shown of them steers nothing."""

import re

# What moves a terminal's cursor, colours it or changes its mode: C0 but tab and line feed, DEL, C1. What looks like a
# line's end and is none, U+2028 and U+2029. What turns the order of all letters behind it: embeddings, overrides and
# isolates, U+202A to U+202E and U+2066 to U+2069.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
LINE_ENDS = re.compile("[\t\n]")
SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}

# What a spreadsheet may take for the start of a formula. Some trim blanks first, and read full-width letters alike.
FORMULA = re.compile(r"\s*[=+@\-\uff1d\uff0b\uff20\uff0d]|[\t\r\n]")


def visible(text: str) -> str:
    r"""The text with escapes in place of codes that would steer a terminal; lines and tabs stay.

    What is no ASCII becomes `\u....`, the way JSON writes it: JSON text stays JSON of the same values.
    """
    return STEERING.sub(_escape, text)


def one_line(text: str) -> str:
    """The same, on one line and without tabs: for a name within a sentence or a row."""
    return LINE_ENDS.sub(_escape, visible(text))


def cell(text: str) -> str:
    """A text as a cell of a csv that people open in a spreadsheet: an apostrophe goes before what may be a formula.

    Before an apostrophe too, so that no two texts give the same cell and `from_cell` gives the text back. Numbers are
    no texts: a negative one has to stay as it is.
    """
    return f"'{text}" if FORMULA.match(text) or text.startswith("'") else text


def from_cell(cell_text: str) -> str:
    """The text that `cell` made a cell of."""
    return cell_text.removeprefix("'")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}")
