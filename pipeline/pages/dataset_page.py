"""The page of a dataset's survey."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.clips.survey import Survey
from pipeline.clips.survey_findings import PROBLEM, Finding
from pipeline.clips.survey_video import PERCENTILES, VideoSurvey
from pipeline.clips.video import av_version
from pipeline.pages.blocks import Block, Cell, Charts, Facts, Folded, Listing, Page, Row, Section, Table, Text
from pipeline.pages.charts import bar_chart, histogram
from pipeline.pages.dataset_pictures import contact_sheets
from pipeline.version import VERSION

MOST_ROWS = 2000
"""Videos in the page's table; more would make it slow to open, and the json has them all."""
MOST_NAMED = 50
MOST_BARS = 60
"""Classes in a drawing; the table below it has all."""


def dataset_page(
    survey: Survey,
    summary: Mapping[str, Any],
    findings: Sequence[Finding],
    *,
    source: str,
    root: Path,
    colour_range: str,
    per_class: int,
) -> Page:
    """Lay out what was found.

    Args:
        survey: of every video.
        summary: of all, see `summarise`.
        findings: see `find`.
        source: what was inspected, for the title.
        root: of the videos, for the contact sheets.
        colour_range: how RGB is made for them.
        per_class: videos of each class on the contact sheets; 0 leaves them out.
    """
    problems = sum(finding.kind == PROBLEM for finding in findings)
    lead = [
        f"{summary['videos']} videos of {len(summary['classes'])} classes, "
        f"{summary['duration_sec'] / 60:.1f} minutes, {summary['bytes'] / 1e6:.1f} MB.",
        f"{problems} problems and {len(findings) - problems} notes." if findings else "Nothing stands out.",
    ]
    sections = [Section(id="findings", title="Findings", blocks=list(_findings(survey, summary, findings)))]
    if survey.videos:
        sections += [
            Section(id="classes", title="Classes", blocks=list(_classes(summary))),
            Section(id="light", title="Light", blocks=list(_light(survey.videos, summary))),
            Section(id="noise", title="Noise and stillness", blocks=list(_noise(survey.videos))),
            Section(id="format", title="Sizes, rates, formats", blocks=list(_format(survey.videos, summary))),
            Section(id="scenes", title="Scenes", blocks=list(_scenes(summary))),
        ]
        if per_class:
            sheets = contact_sheets(survey.videos, root, colour_range=colour_range, per_class=per_class)
            sections.append(Section(id="pictures", title="Contact sheets", blocks=sheets))
        sections.append(Section(id="videos", title="All videos", blocks=list(_videos(survey.videos))))
    footer = f"dlkdd inspect, dl-kdd {VERSION}, PyAV {av_version()}. Colour range of the pictures: {colour_range}."
    return Page(title=f"Dataset {source}", lead=lead, sections=sections, footer=footer)


def _findings(survey: Survey, summary: Mapping[str, Any], findings: Sequence[Finding]) -> Iterator[Block]:
    if not findings:
        yield Text(text="No bad file, no double, and tags that fit the codes.")
    for finding in findings:
        yield Text(tone=finding.kind, text=_sentence(finding.text), more=_sentence(finding.remedy))
        if finding.ids:
            named = [*finding.ids[:MOST_NAMED]]
            if len(finding.ids) > MOST_NAMED:
                named.append(f"and {len(finding.ids) - MOST_NAMED} more, in the json")
            yield Folded(title=f"Names ({len(finding.ids)})", blocks=[Listing(items=named)])
    if survey.bad:
        yield Table(
            caption="Files that cannot be used",
            headers=["path", "reason", "remedy"],
            rows=[[bad.id, bad.reason, bad.remedy] for bad in survey.bad],
            sortable=True,
        )
    if summary["doubles"]:
        yield Table(
            caption="Files with the same bytes, a group a row",
            headers=["first", "subset and class", "again as"],
            rows=[
                [
                    group[0]["id"],
                    " / ".join(filter(None, (group[0]["subset"], group[0]["class_name"]))) or "-",
                    ", ".join(
                        f"{double['id']} ({' / '.join(filter(None, (double['subset'], double['class_name']))) or '-'})"
                        for double in group[1:]
                    ),
                ]
                for group in summary["doubles"]
            ],
        )


def _classes(summary: Mapping[str, Any]) -> Iterator[Block]:
    classes = summary["classes"]
    bars = {
        name or "no class": {subset or "videos": count for subset, count in figures["by_subset"].items()}
        for name, figures in list(classes.items())[:MOST_BARS]
    }
    luma = {name or "no class": {"luma": round(figures["median_luma"], 1)} for name, figures in classes.items()}
    yield Charts(
        charts=[
            bar_chart("Videos by class", bars, x_label="videos"),
            bar_chart(
                "Median of the videos' mean luma by class", dict(list(luma.items())[:MOST_BARS]), x_label="luma code"
            ),
        ]
    )
    subsets = [subset for subset in summary["subsets"] if subset != "none named"]
    yield Table(
        caption="Classes",
        headers=["class", "videos", *subsets, "scenes", "median luma"],
        rows=[
            [
                name or "no class",
                str(figures["videos"]),
                *(str(figures["by_subset"].get(subset, 0)) for subset in subsets),
                str(figures["scenes"]),
                f"{figures['median_luma']:.1f}",
            ]
            for name, figures in classes.items()
        ],
        numeric=frozenset(range(1, len(subsets) + 4)),
        sortable=True,
    )


def _light(videos: Sequence[VideoSurvey], summary: Mapping[str, Any]) -> Iterator[Block]:
    luma = summary["luma"]
    yield Text(
        text="Luma codes as they were coded, 0 to 255. In limited range 16 is black and 235 white; read so, all codes "
        "below 16 become the same black.",
    )
    yield Facts(
        items=[
            ("mean code", f"{luma['mean']:.1f}"),
            ("below 16", f"{luma['low_share']:.3%}"),
            ("above 235", f"{luma['high_share']:.3%}"),
            ("contrast (median std)", f"{luma['contrast']['median']:.1f}"),
            *((f"{percent} %", str(luma["percentiles"][str(percent)])) for percent in PERCENTILES),
        ]
    )
    shares = luma["shares"]
    last = min(256, max(64, 8 * -(-(luma["percentiles"]["99"] + 8) // 8)))
    limits = {"16": 16.0} | ({"235": 235.0} if last > 235 else {})
    yield Charts(
        charts=[
            histogram(
                "Luma codes of all videos",
                [float(code) for code in range(last + 1)],
                [100 * share for share in shares[:last]],
                x_label="luma code" + ("" if last == 256 else f" (99 % lie below {luma['percentiles']['99'] + 1})"),
                y_label="% of codes",
                marks=limits,
            ),
            _histogram("Mean luma of the videos", [v.info.mean_luma for v in videos], x_label="mean luma code"),
            _histogram("Codes below 16", [100 * v.low_share for v in videos], x_label="% of a video's codes"),
        ]
    )


def _noise(videos: Sequence[VideoSurvey]) -> Iterator[Block]:
    yield Text(
        text="Noise is the standard deviation of one frame in luma codes, told from neighbouring frames where nothing "
        "moves. Frozen blocks of 8 x 8 pixels did not change at all: the codec coded nothing there, or nothing moved.",
    )
    yield Charts(
        charts=[
            _histogram("Noise of the videos", [v.noise for v in videos], x_label="luma codes"),
            _histogram("Frozen blocks", [100 * v.frozen_share for v in videos], x_label="% of a video's blocks"),
            _histogram("Repeated frames", [100 * v.repeated_share for v in videos], x_label="% of a video's frames"),
        ]
    )


def _format(videos: Sequence[VideoSurvey], summary: Mapping[str, Any]) -> Iterator[Block]:
    yield Charts(
        charts=[
            _histogram("Frames of the videos", [v.info.num_frames for v in videos], x_label="frames"),
            _histogram("Length of the videos", [v.duration_sec for v in videos], x_label="seconds"),
        ]
    )
    uneven = {"even": summary["videos"] - summary["uneven_rate"], "uneven": summary["uneven_rate"]}
    groups = {
        "frame size, upright": summary["sizes"],
        "frames a second, average": summary["fps"],
        "times between frames": uneven,
        "pixel format": summary["pix_fmts"],
        "colour range, tagged": summary["colour_ranges"],
        "colour range, by the codes": summary["likely_ranges"],
        "rotation, degrees counter-clockwise": summary["rotations"],
    }
    rows = [[what, value, str(count)] for what, counts in groups.items() for value, count in counts.items() if count]
    yield Table(caption="Formats", headers=["what", "value", "videos"], rows=rows, numeric=frozenset({2}))


def _scenes(summary: Mapping[str, Any]) -> Iterator[Block]:
    scenes = summary["scenes"]
    yield Text(
        text=f"The names of {scenes['told']} of {summary['videos']} videos tell a scene, {scenes['count']} in all."
        + ("" if scenes["told"] else " Give --scene-pattern where names hold one in another form.")
    )
    if scenes["largest"]:
        yield Table(
            caption="The largest scenes by name",
            headers=["scene", "videos"],
            rows=[[scene, str(count)] for scene, count in scenes["largest"].items()],
            numeric=frozenset({1}),
        )


def _videos(videos: Sequence[VideoSurvey]) -> Iterator[Block]:
    if len(videos) > MOST_ROWS:
        yield Text(text=f"The first {MOST_ROWS} of {len(videos)}; the json has all.")
    headers = ["path", "class", "subset", "frames", "seconds", "fps", "size", "format", "range", "mean luma"]
    headers += ["below 16", "above 235", "noise", "frozen"]
    rows: list[Row] = []
    for video in videos[:MOST_ROWS]:
        entry, info = video.entry, video.info
        tagged = info.colour_range + (f", likely {video.likely_range}" if video.likely_range else "")
        rows.append(
            [
                entry.id,
                entry.class_name,
                entry.subset,
                str(info.num_frames),
                f"{video.duration_sec:.1f}",
                f"{info.fps:g}",
                Cell(text=f"{info.width}x{info.height}", value=info.width * info.height),
                info.pix_fmt,
                tagged,
                f"{info.mean_luma:.1f}",
                *(Cell(text=f"{share:.2%}", value=share) for share in (video.low_share, video.high_share)),
                f"{video.noise:.2f}",
                Cell(text=f"{video.frozen_share:.0%}", value=video.frozen_share),
            ]
        )
    numeric = frozenset({3, 4, 5, 6, 9, 10, 11, 12, 13})
    yield Table(caption="Videos", headers=headers, rows=rows, numeric=numeric, sortable=True)


def _histogram(title: str, values: Sequence[float], *, x_label: str) -> Any:
    """Videos by a value, in about twenty columns."""
    low, high = min(values), max(values)
    whole = all(float(value).is_integer() for value in values)
    if high - low < 1e-9:
        edges = np.array([low - 0.5, low + 0.5])
    elif whole and high - low < 20:
        edges = np.arange(low - 0.5, high + 1)
    else:
        edges = np.linspace(low, high, 21)
    counts = np.histogram(values, edges)[0]
    return histogram(title, edges.tolist(), counts.tolist(), x_label=x_label, y_label="videos")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
