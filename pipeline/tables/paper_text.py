"""Tables as Markdown or LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.clips.plain_text import one_line
from pipeline.tables.paper_rows import DASH


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table ready to be printed; all texts plain, not yet escaped."""

    title: str
    """Number, data set and measure."""
    header: tuple[str, ...]
    """Names of the columns."""
    rows: tuple[tuple[str, ...], ...]
    """Cells, as many a row as the header has."""
    notes: tuple[str, ...]
    """Footnotes; a number in brackets is what rows refer to."""


def as_markdown(tables: Sequence[Table]) -> str:
    """The tables under headings, each with its footnotes as a list."""
    return "\n\n".join(_markdown(table) for table in tables)


def as_latex(tables: Sequence[Table]) -> str:
    """The tables as `tabular` of a line's width, for the body of a document; no package is needed."""
    return "\n\n".join(_latex(table) for table in tables)


def _markdown(table: Table) -> str:
    blocks = [f"### {table.title}"]
    if table.rows:
        lines = [table.header, ("---",) * len(table.header), *table.rows]
        blocks.append("\n".join("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines))
    if table.notes:
        blocks.append("\n".join(f"* {one_line(note)}" for note in table.notes))
    return "\n\n".join(blocks)


def _markdown_cell(text: str) -> str:
    """Backslashes first: one that stands before the bar's own would free the bar again."""
    return one_line(text).replace("\\", r"\\").replace("|", r"\|").replace("<", "&lt;")


def _latex(table: Table) -> str:
    lines = [r"\begin{center}", rf"\textbf{{{_escaped(table.title)}}}\par\medskip"]
    if table.rows:
        body = [" & ".join(map(_latex_cell, line)) + r" \tabularnewline" for line in (table.header, *table.rows)]
        columns = "".join(rf"p{{{width:.3f}\linewidth}}" for width in _widths(table))
        lines += [r"\scriptsize\setlength{\tabcolsep}{2pt}", rf"\begin{{tabular}}{{{columns}}}"]
        lines += [r"\hline", body[0], r"\hline", *body[1:], r"\hline", r"\end{tabular}"]
    lines.append(r"\end{center}")
    # Paragraphs, as the bullets of a list come from a font that a bare LaTeX may lack.
    notes = [rf"{_escaped(note)}\par" for note in table.notes]
    return "\n".join([*lines, r"{\footnotesize\setlength{\parindent}{0pt}", *notes, "}"])


def _widths(table: Table) -> list[float]:
    """Widths of the columns as shares of the line, by their longest word and a little by their longest cell."""
    columns = list(zip(table.header, *table.rows, strict=True))
    needs = [max(map(len, " ".join(cells).split())) + 0.1 * max(map(len, cells)) for cells in columns]
    # The rest is for the gaps between the columns.
    return [0.88 * need / sum(needs) for need in needs]


def _latex_cell(cell: str) -> str:
    return r"\raggedright " + ("--" if cell == DASH else _escaped(cell))


# Brackets too: behind some commands they would open an optional argument.
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"}
)


def _escaped(text: str) -> str:
    return one_line(text).translate(LATEX)
