"""What a page is made of. The template lays every kind of block out; all text in them is plain and escaped there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table's cell that is more than its text."""

    text: str
    value: float | None = None
    """What to sort by; None sorts by the text."""
    heat: int | None = None
    """Shade from 0 to 9 of a heat map; None for no shade."""


Row = Sequence[str | Cell]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: str = ""
    """problem or note puts a mark and that word before it."""
    more: str = ""
    """A second sentence, in a calmer colour."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    items: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a caption; the first column names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    headers: Sequence[str]
    rows: Sequence[Row]
    numeric: frozenset[int] = frozenset()
    """Columns that hold numbers."""
    sortable: bool = False
    """Headers become buttons, and a field above filters the rows."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its figures as a table, for those who cannot see it."""

    title: str
    summary: str
    """What the drawing shows, in one sentence: its text alternative."""
    svg: Markup
    """What stands inside the svg element."""
    height: int
    """Of the view box; its width is `charts.WIDTH`."""
    table: Table


@dataclass(frozen=True, kw_only=True)
class Charts:
    """Drawings side by side, one below the other on a narrow screen."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as a data: URI, or a number of them that belong together."""

    sources: Sequence[tuple[str, str]]
    """Each one's URI and text alternative."""
    caption: str
    width: int
    """Of each on the page in pixels, less on a narrow screen."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures under a heading."""

    kind: ClassVar[str] = "pictures"
    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Points, one a line."""

    kind: ClassVar[str] = "listing"
    items: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text as it stands in a file."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Blocks that a click shows."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence["Block"]


Block = Text | Facts | Table | Charts | Pictures | Listing | Code | Folded


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page with a heading that the page's menu leads to."""

    id: str
    """Lower-case letters and hyphens."""
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    lead: Sequence[str]
    """Sentences below the title that say the most important."""
    sections: Sequence[Section]
    footer: str
