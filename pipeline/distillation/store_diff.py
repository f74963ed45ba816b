"""Two logit stores compared, row by row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.distillation.logit_store import LogitStore
from pipeline.distillation.store_report import printable
from pipeline.distillation.store_slabs import Columns, gather, slabs


@dataclass(frozen=True, kw_only=True)
class ChangedClip:
    """A clip whose largest logit is another class in the other store."""

    clip: str
    num_views: int
    """In how many of the common views."""
    view: int
    """The first of them."""
    before: str
    """Class name in A, in that view."""
    after: str
    """Class name in B, in that view."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two stores side by side, rows joined by clip id and view."""

    rows: int
    """In both."""
    only_a: int
    only_b: int
    largest: float
    """Largest absolute difference of a logit."""
    mean: float
    """Mean absolute difference of all common logits."""
    same_top1: float
    """Share of the common rows whose largest logit is the same class."""
    changed: tuple[ChangedClip, ...]
    """Sorted by clip."""
    fields: tuple[str, ...]
    """Fields of fingerprint and provenance that differ, with both values."""


def compare(a: LogitStore, b: LogitStore) -> Difference:
    """Compare the rows that two stores have in common.

    Raises:
        ValueError: other classes, or no row in common.
    """
    if a.class_names != b.class_names:
        found, wanted = _some(b.class_names, a.class_names), _some(a.class_names, b.class_names)
        raise ValueError(f"{b.path}: found {found}, wanted {wanted} as in {a.path}; compare stores of the same classes")
    of_b = {clip_id: clip for clip, clip_id in enumerate(b.clip_ids)}
    pairs = [(clip, of_b[clip_id]) for clip, clip_id in enumerate(a.clip_ids) if clip_id in of_b]
    if not pairs:
        raise ValueError(f"{b.path}: found no clip of {a.path}; compare stores of the same clips")
    in_a, in_b = np.array(pairs, np.int64).T  # both rise, because both stores are sorted by id
    views = min(a.num_views, b.num_views)
    largest, total, changes = 0.0, 0.0, dict[int, list[tuple[int, int, int]]]()
    with Columns(a) as file_a, Columns(b) as file_b:
        for view in range(views):
            for span in slabs(len(pairs), 8 * len(a.class_names)):
                left = gather(file_a["logits"], view * len(a.clip_ids) + in_a[span])
                right = gather(file_b["logits"], view * len(b.clip_ids) + in_b[span])
                distance = np.abs(left.astype(np.float64) - right)
                largest, total = max(largest, float(distance.max())), total + float(distance.sum())
                before, after = left.argmax(axis=1), right.argmax(axis=1)
                for row in np.flatnonzero(before != after).tolist():
                    change = (view, int(before[row]), int(after[row]))
                    changes.setdefault(int(in_a[span.start + row]), []).append(change)
    rows = views * len(pairs)
    return Difference(
        rows=rows,
        only_a=a.summary.rows - rows,
        only_b=b.summary.rows - rows,
        largest=largest,
        mean=total / (rows * len(a.class_names)),
        same_top1=1 - sum(map(len, changes.values())) / rows,
        changed=tuple(_changed(a, clip, changes[clip]) for clip in sorted(changes)),
        fields=tuple(_field_sentences(a, b)),
    )


def difference_text(difference: Difference, *, limit: int) -> str:
    """The comparison as lines; at most `limit` of the clips that changed."""
    lines = [
        f"rows         {difference.rows} in both, {difference.only_a} only in A, {difference.only_b} only in B",
        f"difference   largest {difference.largest:.6g}, mean {difference.mean:.6g}",
        f"same top-1   {difference.same_top1:.4f} of the rows in both",
        f"changed      {len(difference.changed)} clips have another top-1",
    ]
    for change in difference.changed[:limit]:
        said = f"{printable(change.before)} -> {printable(change.after)} in view {change.view}"
        more = f" and {change.num_views - 1} other views" if change.num_views > 1 else ""
        lines.append(f"  {printable(change.clip)}: {said}{more}")
    if len(difference.changed) > limit:
        lines.append(f"  and {len(difference.changed) - limit} other clips")
    lines.append(f"fields       {len(difference.fields)} differ")
    return "\n".join([*lines, *(f"  {printable(field)}" for field in difference.fields)])


def _changed(store: LogitStore, clip: int, changes: list[tuple[int, int, int]]) -> ChangedClip:
    view, before, after = changes[0]
    names = store.class_names
    return ChangedClip(
        clip=store.clip_ids[clip], num_views=len(changes), view=view, before=names[before], after=names[after]
    )


def _field_sentences(a: LogitStore, b: LogitStore) -> Iterator[str]:
    for kind in ("fingerprint", "provenance"):
        of_a, of_b = getattr(a, kind), getattr(b, kind)
        for name in sorted(of_a.keys() | of_b.keys()):
            sides = [repr(fields[name]) if name in fields else "none" for fields in (of_a, of_b)]
            if sides[0] != sides[1]:
                yield f"{kind} {name}: {sides[0]} in A, {sides[1]} in B"


def _some(names: Sequence[str], others: Sequence[str]) -> str:
    """The first few names that the others lack, for a message; all of one order where none is lacking."""
    lacking = [name for name in names if name not in others] or list(names)
    return f"{len(names)} classes with " + ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
