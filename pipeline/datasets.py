"""Where a data set's clips come from, for `dlkdd use`: parameters with the runs of published splits or of own clips."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.clips.lists import check_labelled, class_names_of, label_of, read_class_table, read_list
from pipeline.presets import ARID_CLASSES, Params, paper, tiny

# Dark-48's files are `class/<source>_<number>.mp4` or, for the classes from Kinetics, `class/<source>_<from>_<to>.mp4`
# with two times of six digits: the numbers say which part of the source was cut out. The source alone is the scene,
# without the class folder, since parts of one source stand in several classes. A source may itself end in `_` and
# digits (`yt-vdqbdEKeJ_4_71.mp4`), so only one number comes off. What stands before it (`yt-`, `getty_R-`) stays, so
# a source that is named once with and once without it counts as two.
DARK48_SOURCES = r"([^/]+?)(?:_\d{6}_\d{6}|_\d+)\.[^./]+$"


RESERVED = re.compile(r"(arid|arid15|dark48|ug2)(-[a-z0-9]+)?-[0-9]+")
"""Names of the presets' runs."""


def arid(videos: Path, lists: Path, *, tag: str = "") -> Params:
    """The three splits of ARID with the paper's numbers.

    Args:
        videos: root that the lists' paths are relative to.
        lists: folder of `mapping_table.txt` and `ARID_split{1,2,3}_{train,test}.txt`.
        tag: goes into the runs' names.

    Raises:
        ValueError: a missing or bad list, or a bad tag.
    """
    params = paper()
    ids, names = read_class_table(lists / "mapping_table.txt")
    for split in (1, 2, 3):
        train, test = (lists / f"ARID_split{split}_{subset}.txt" for subset in ("train", "test"))
        _add(params, _run_name("arid", tag, split), _inputs(videos, train, test, ids, names))
    return params


def arid15(
    videos: Path,
    *,
    train: Path | None,
    test: Path | None,
    classes: Path | None = None,
    split: int = 1,
    tag: str = "",
) -> Params:
    """One split of ARID v1.5 with the paper's numbers, from lists of the user's.

    Args:
        videos: root that the lists' paths are relative to.
        train: training list.
        test: test list.
        classes: table of class ids and names; without it ARID's eleven, 0 to 10.
        split: number of the split, 1 to 3, for the run's name.
        tag: goes into the run's name.

    Raises:
        ValueError: a list is not given or bad, or a bad tag or split.
    """
    if train is None or test is None:
        raise ValueError(
            "arid15: found no training and test list, wanted both: the lists of ARID v1.5 are not published, and "
            "those of ARID are other clips; give --train and --test"
        )
    if not 1 <= split <= 3:
        raise ValueError(f"arid15: split: found {split}, wanted 1 to 3; use --tag to tell more runs apart")
    ids, names = (list(range(len(ARID_CLASSES))), ARID_CLASSES) if classes is None else read_class_table(classes)
    params = paper()
    _add(params, _run_name("arid15", tag, split), _inputs(videos, train, test, ids, names))
    return params


def ug2(videos: Path, lists: Path) -> Params:
    """UG2+ 2.1, track 1: six classes of ARID 1.1, and a test list without labels.

    Args:
        videos: root that the lists' paths are relative to: class folders for training, `0.mp4` ... for the test.
        lists: folder of the two csv lists and `mapping_table_t1.txt`.

    Raises:
        ValueError: a missing or bad list.
    """
    params = paper()
    # The published configuration says six classes, but its lists call them 5 to 10: a layer of six outputs that is
    # fed these numbers as they are fails. Here an id becomes its place in the table, 0 to 5.
    ids, names = read_class_table(lists / "mapping_table_t1.txt")
    train = lists / "ARID1.1_t1_train_pub.csv"
    # It has no labels, whatever the `gt` in its name says.
    test = lists / "ARID1.1_t1_validation_gt_pub.csv"
    _add(params, _run_name("ug2", "", 1), _inputs(videos, train, test, ids, names))
    return params


def dark48(videos: Path, lists: Path, *, tag: str = "") -> Params:
    """Those splits of Dark-48 whose lists are there, with the paper's numbers.

    Args:
        videos: root that the lists' paths are relative to.
        lists: folder of `classInd.txt` and `{train,test}_split{1,2,3}.txt`, or the one above it (`annotations/`).
        tag: goes into the runs' names.

    Raises:
        ValueError: no split has both lists, a bad list or a bad tag.
    """
    below = not (lists / "classInd.txt").is_file() and (lists / "annotations").is_dir()
    folder = lists / "annotations" if below else lists
    pairs = {
        split: (folder / f"train_split{split}.txt", folder / f"test_split{split}.txt")
        for split in (1, 2, 3)
        if (folder / f"train_split{split}.txt").is_file() and (folder / f"test_split{split}.txt").is_file()
    }
    if not pairs:
        raise ValueError(
            f"{folder}: found no split with both lists, wanted train_split1.txt and test_split1.txt (or those of 2 or "
            "3); give the published repository's folder as --lists"
        )
    params = paper()
    # The paper trains 50 epochs on Dark-48; as for ARID, every epoch has a view of its own.
    params["teacher"]["epochs"] = params["student"]["epochs"] = params["logits"]["views"] = 50
    # The splits were drawn clip by clip, so that sources stand on both sides; as published, it cannot be helped.
    params["prepare"] |= {"on_leak": "report", "scene_pattern": DARK48_SOURCES}
    ids, names = read_class_table(folder / "classInd.txt")
    for split, (train, test) in pairs.items():
        _add(params, _run_name("dark48", tag, split), _inputs(videos, train, test, ids, names))
    return params


def own(name: str, *, videos: Path, train: Path, test: Path, classes: Path | None, model: str) -> Params:
    """A user's own clips; the test list may be unlabelled.

    Args:
        name: the run's name.
        videos: root that the lists' paths are relative to.
        train: list, or folder of class folders, of the training clips.
        test: the same of the test clips.
        classes: table of class ids and names; None where the lists give names.
        model: backbone of teacher and student.

    Raises:
        ValueError: a bad name, a missing or bad list, fewer than two classes.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) is None:
        raise ValueError(f"run name '{name}': wanted lower-case letters, digits, '-' and '_', such as night-1")
    if RESERVED.fullmatch(name):
        raise ValueError(
            f"run name '{name}': is kept for runs of the published splits, which the tables know by it; wanted another "
            f"name, such as my-{name}"
        )
    params = tiny() if model == "r2plus1d_tiny" else paper()
    if classes is None:
        names = class_names_of(read_list(path.resolve(), videos=videos.resolve()) for path in (train, test))
        ids = list(range(len(names)))
    else:
        ids, names = read_class_table(classes)
    if len(names) < 2:
        raise ValueError(f"{train}: found the classes {names}, wanted at least two")
    _add(params, name, _inputs(videos, train, test, ids, names))
    params["teacher"]["model"] = params["student"]["model"] = model
    return params


def own_folder(name: str, root: Path, *, model: str) -> Params:
    """A folder of class folders: below train/ and test/, or without, split by scenes in prepare."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; check --folder")
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


def _run_name(dataset: str, tag: str, split: int) -> str:
    if re.fullmatch(r"[a-z0-9]*", tag) is None:
        raise ValueError(f"tag '{tag}': wanted lower-case letters and digits, such as twostream")
    return "-".join(part for part in (dataset, tag, str(split)) if part)


def _inputs(
    videos: Path, train: Path, test: Path, class_ids: Sequence[int], class_names: Sequence[str]
) -> dict[str, Any]:
    """A run's entry, once both lists could be read and every label in them is known."""
    root = videos.resolve()
    if not root.is_dir():
        raise ValueError(f"{videos}: no such folder; --videos names the root that the lists' paths are relative to")
    for path in (train, test):
        listed = read_list(path.resolve(), videos=root)
        if path is train:
            check_labelled(listed)
        for line in listed:
            label_of(line, class_names, class_ids)
    return {
        "videos": str(root),
        "train": str(train.resolve()),
        "test": str(test.resolve()),
        "classes": list(class_names),
        "class_ids": list(class_ids),
    }


def _add(params: Params, run: str, inputs: dict[str, Any]) -> None:
    params["runs"].append(run)
    params["inputs"][run] = inputs
