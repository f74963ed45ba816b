"""Makes a data set that needs no labels: each video in four orders of its frames, and the order is the class.

python benchmarks/reordered.py VIDEOS TRAIN TEST OUT

VIDEOS is a folder, TRAIN and TEST are lists of its clips; what class they name is not looked at. A network that tells
the orders apart has to see motion, since each scene is in all four classes.
`python benchmarks/studies.py pretext --root OUT` trains one, whose weights others can start from (`student.weights`).
"""

from pathlib import Path

import click
import numpy as np

from pipeline.clips.darkened_folder import frame_rate
from pipeline.clips.lists import find_video, read_list
from pipeline.clips.video import decode, even_sides, write_video

ORDERS = ("forwards", "backwards", "swapped", "folded")


def reordered(frames, order):
    """The frames, each of them once, in one of ORDERS.

    swapped: the second half before the first; folded: every second frame there, and the others on the way back.
    """
    if order == "swapped":
        return np.roll(frames, len(frames) // 2, axis=0)
    if order == "folded":
        return np.concatenate((frames[::2], frames[1::2][::-1]))
    return frames if order == "forwards" else frames[::-1]


@click.command()
@click.argument("videos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("train", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("test", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def main(videos, train, test, out):
    """Write the reordered videos of two lists, the new lists and the table of classes."""
    for order in ORDERS:
        (out / "videos" / order).mkdir(parents=True, exist_ok=True)
    made: dict[str, str] = {}
    for subset, path in (("train", train), ("test", test)):
        lines = []
        for clip in read_list(path, videos=videos):
            found = find_video(videos, clip.path)
            source, name = videos / found, Path(found).with_suffix(".mp4").as_posix().replace("/", "_")
            if made.setdefault(name, found) != found:
                raise click.ClickException(f"{found}: would be written as {name}, as {made[name]} is; rename one")
            frames, fps = decode(source), frame_rate(source)
            for label, order in enumerate(ORDERS):
                write_video(out / "videos" / order / name, reordered(even_sides(frames), order), fps=fps)
                lines.append(f"{len(lines)}\t{label}\t{order}/{name}\n")
        (out / f"{subset}.txt").write_text("".join(lines), encoding="utf-8")
    table = "".join(f"{label}\t{order}\n" for label, order in enumerate(ORDERS))
    (out / "mapping_table.txt").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
