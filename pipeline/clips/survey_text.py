"""A dataset's survey as text for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.clips.plain_text import one_line
from pipeline.clips.survey import Survey
from pipeline.clips.survey_findings import MAX_NAMED, Finding, listed
from pipeline.clips.survey_video import PERCENTILES


def as_text(survey: Survey, summary: Mapping[str, Any], findings: Sequence[Finding], *, source: str) -> str:
    """What `dlkdd inspect` prints."""
    luma, frames = summary["luma"], summary["num_frames"]
    percentiles = "  ".join(f"{percent} % {luma['percentiles'][str(percent)]}" for percent in PERCENTILES)
    lines = [
        f"{source}: {summary['videos']} videos, {len(summary['classes'])} classes, "
        f"{summary['duration_sec'] / 60:.1f} min, {summary['bytes'] / 1e6:.1f} MB; {summary['bad']} bad files",
        *(f"  bad  {bad.id}: {bad.reason}; {bad.remedy}" for bad in survey.bad),
    ]
    if not survey.videos:
        return "\n".join(map(one_line, lines))
    lines += [
        "",
        *_class_lines(summary["classes"]),
        "",
        f"subset          {listed(summary['subsets'])}",
        f"frame size      {listed(summary['sizes'])}",
        f"frames a second {listed(summary['fps'])}; {summary['uneven_rate']} with uneven times",
        f"frames          {frames['least']:.0f} to {frames['largest']:.0f}, median {frames['median']:.0f}",
        f"pixel format    {listed(summary['pix_fmts'])}; range {listed(summary['colour_ranges'])}",
        f"rotation        {listed(summary['rotations'])}",
        f"luma code       mean {luma['mean']:.1f}; {percentiles}",
        f"                {luma['low_share']:.2%} below 16, {luma['high_share']:.2%} above 235",
        f"noise           {_range(summary['noise'], '.2f')} codes; blocks without any change "
        f"{_range(summary['frozen_share'], '.0%')}",
        f"scenes          {summary['scenes']['count']}, told by the names of {summary['scenes']['told']} videos",
    ]
    for finding in findings:
        named = ", ".join(finding.ids[:MAX_NAMED]) + (" ..." if len(finding.ids) > MAX_NAMED else "")
        lines += ["", f"{finding.kind}: {finding.text}" + (f": {named}" if named else "")]
        lines += [f"  {finding.remedy}"] if finding.remedy else []
    return "\n".join(map(one_line, lines))


def _class_lines(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    width = max(len("class"), *(len(name) for name in classes))
    lines = [f"{'class':<{width}}  videos  median luma"]
    for name, figures in classes.items():
        subsets = listed({subset: count for subset, count in figures["by_subset"].items() if subset})
        line = f"{name or '-':<{width}}  {figures['videos']:>6}  {figures['median_luma']:>11.1f}  {subsets}"
        lines.append(line.rstrip())
    return lines


def _range(figures: Mapping[str, float], form: str) -> str:
    return f"{figures['least']:{form}} to {figures['largest']:{form}}, median {figures['median']:{form}}"
