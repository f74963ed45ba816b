"""Answers as text: JSON lines, or csv."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from pipeline.clips.plain_text import cell, one_line, visible
from pipeline.inference.predictor import Answer

FORMATS = ("json", "csv")
UNKNOWN = "unknown"

LIVE_FIELDS = ("time", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class AnswerFormat:
    """How answers are written."""

    form: str
    """json or csv."""
    class_names: tuple[str, ...]
    top: int
    """Best classes that are named apart."""
    threshold: float
    """Probability below which no label is given."""
    live: bool
    """With the time of the newest frame and the latency, as a stream's answers have them."""

    def header(self) -> list[str]:
        """The columns of csv."""
        ranked = [name for rank in range(2, self.top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
        first = ["source", "window", "start", "end", "frames", "looped", *(LIVE_FIELDS if self.live else ())]
        return [*first, "label", "probability", *ranked, *(f"p_{name}" for name in self.class_names)]

    def record(self, source: str, answer: Answer, live: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """An answer as plain values; times in seconds, probabilities to six places."""
        ranking = np.argsort(-answer.probabilities, kind="stable")[: self.top]
        probabilities = [round(float(value), 6) for value in answer.probabilities]
        top = [(self.class_names[label], probabilities[label]) for label in ranking]
        known = float(answer.probabilities[ranking[0]]) >= self.threshold
        return {
            "source": source,
            "window": answer.number,
            "start": round(answer.start, 3),
            "end": round(answer.end, 3),
            "frames": answer.num_frames,
            "looped": answer.looped,
            **(live or {}),
            "label": top[0][0] if known else None,
            "probability": top[0][1],
            "top": [{"label": name, "probability": probability} for name, probability in top],
            "probabilities": dict(zip(self.class_names, probabilities, strict=True)),
        }


class AnswerWriter:
    """Writes answers line by line; each line is out before the next answer is asked for.

    Text cells of csv are for a spreadsheet: names hold escapes for codes and line ends, and are no formulas.
    """

    def __init__(self, file: TextIO, form: AnswerFormat) -> None:
        self._file = file
        self._form = form
        self._csv = csv.writer(file, lineterminator="\n")
        if form.form == "csv":
            self._csv.writerow(map(_cell, form.header()))
            file.flush()

    def write(self, source: str, answer: Answer, live: Mapping[str, Any] | None = None) -> None:
        """Write one answer; `live` are the fields that only a stream's answers have."""
        record = self._form.record(source, answer, live)
        if self._form.form == "json":
            self._file.write(visible(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n")
        else:
            self._csv.writerow(map(_cell, _row(record)))
        self._file.flush()


def _cell(value: Any) -> Any:
    """Text without codes that steer, and no formula; numbers as they are. JSON says names exactly."""
    return cell(one_line(value)) if isinstance(value, str) else value


def _row(record: dict[str, Any]) -> list[Any]:
    top, probabilities = record.pop("top"), record.pop("probabilities")
    record["label"] = UNKNOWN if record["label"] is None else record["label"]
    record["looped"] = str(record["looped"]).lower()
    ranked = [value for each in top[1:] for value in (each["label"], each["probability"])]
    return [*record.values(), *ranked, *probabilities.values()]
