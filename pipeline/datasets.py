"""Where a data set's clips come from, for `dlkdd use`: parameters with the runs of published splits or of own clips."""

import re
from pathlib import Path

from pipeline.clips.lists import class_names_of, read_class_names, read_list
from pipeline.presets import Params, paper, tiny


def arid(videos: Path, lists: Path) -> Params:
    """The three splits of ARID with the paper's numbers."""
    params = paper()
    names = read_class_names(lists / "mapping_table.txt")
    for split in (1, 2, 3):
        run = f"arid-{split}"
        params["runs"].append(run)
        params["inputs"][run] = {
            "videos": str(videos.resolve()),
            "train": str((lists / f"ARID_split{split}_train.txt").resolve()),
            "test": str((lists / f"ARID_split{split}_test.txt").resolve()),
            "classes": names,
            "class_ids": list(range(len(names))),
        }
    for entry in params["inputs"].values():
        for key in ("train", "test"):
            read_list(Path(entry[key]), videos=videos)
    return params


def own(name: str, *, videos: Path, train: Path, test: Path, classes: Path | None, model: str) -> Params:
    """A user's own clips."""
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is None:
        raise ValueError(f"run name '{name}': wanted lower-case letters, digits, '-' and '_', such as night-1")
    if not videos.is_dir():
        raise ValueError(f"{videos}: no such folder; --videos names the root that the lists' paths are relative to")
    params = tiny() if model == "r2plus1d_tiny" else paper()
    listed = [read_list(path.resolve(), videos=videos.resolve()) for path in (train, test)]
    names = class_names_of(listed) if classes is None else read_class_names(classes)
    if len(names) < 2:
        raise ValueError(f"{train}: found the classes {names}, wanted at least two")
    params["runs"] = [name]
    params["inputs"][name] = {
        "videos": str(videos.resolve()),
        "train": str(train.resolve()),
        "test": str(test.resolve()),
        "classes": names,
        "class_ids": list(range(len(names))),
    }
    params["teacher"]["model"] = params["student"]["model"] = model
    return params


def own_folder(name: str, root: Path, *, model: str) -> Params:
    """A folder of class folders: below train/ and test/, or without, split by scenes in prepare."""
    train = root / "train"
    tests = [root / folder for folder in ("test", "val", "validate", "validation") if (root / folder).is_dir()]
    if train.is_dir() != bool(tests):
        raise ValueError(
            f"{root}: holds {'train' if train.is_dir() else tests[0].name}/ alone; wanted train/ and test/, "
            "or class folders without either"
        )
    if train.is_dir():
        return own(name, videos=root, train=train, test=tests[0], classes=None, model=model)
    return own(name, videos=root, train=root, test=root, classes=None, model=model)
