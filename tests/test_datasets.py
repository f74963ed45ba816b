import re
from pathlib import Path

import pytest

from pipeline import datasets, presets
from pipeline.clips.lists import label_of, read_list
from pipeline.config import RunInputs
from pipeline.params import parse


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def arid_lists(tmp_path):
    write(tmp_path / "lists/mapping_table.txt", "0\tDrink\n1\tJump\n")
    for split in (1, 2, 3):
        for part in ("train", "test"):
            write(tmp_path / f"lists/ARID_split{split}_{part}.txt", f"0\t1\tJump/Jump_{split}_1.avi\n")
    return tmp_path / "lists"


def write_dark48(folder, splits=(1, 2, 3)):
    """Lists as they are published: no final newline, a leading '-', one file in two classes."""
    write(folder / "classInd.txt", "0\tascending\n1\tbreathing_fire\n2\tdescending")
    for split in splits:
        write(folder / f"train_split{split}.txt", "ascending/-abc_3.mp4 0\nbreathing_fire/AbC-d_000002_000012.mp4 1")
        write(folder / f"test_split{split}.txt", "descending/-abc_3.mp4 2\nascending/yt-x_4_71.mp4 0")
    return folder


def write_ug2(folder):
    write(folder / "mapping_table_t1.txt", "5\tRun\n6\tSit\n7\tStand\n8\tTurn\n9\tWalk\n10\tWave\n")
    rows = "0,Wave/Wave_10_1.mp4,10\n1,Run/Run_21_1.mp4,5\n"
    write(folder / "ARID1.1_t1_train_pub.csv", f"VideoID,Video,ClassID\n{rows}")
    write(folder / "ARID1.1_t1_validation_gt_pub.csv", "VideoID,Video\n0,0.mp4\n1,1.mp4\n")
    return folder


def check_whole(params):
    """Every run's entry is what params.yaml may hold."""
    assert sorted(params["runs"]) == sorted(params["inputs"])
    for run, entry in params["inputs"].items():
        parse(RunInputs, entry, where=run)


def labels_in(entry, key):
    listed = read_list(Path(entry[key]), videos=Path(entry["videos"]))
    return [label_of(line, entry["classes"], entry["class_ids"]) for line in listed]


def test_arid_has_three_runs_and_a_tag_goes_into_their_names(tmp_path, arid_lists):
    plain, tagged = datasets.arid(tmp_path, arid_lists), datasets.arid(tmp_path, arid_lists, tag="twostream")
    assert plain["runs"] == ["arid-1", "arid-2", "arid-3"]
    assert tagged["runs"] == ["arid-twostream-1", "arid-twostream-2", "arid-twostream-3"]
    assert plain["inputs"]["arid-2"] == tagged["inputs"]["arid-twostream-2"]
    assert plain["inputs"]["arid-2"]["class_ids"] == [0, 1]
    assert plain["inputs"]["arid-2"]["test"] == str((arid_lists / "ARID_split2_test.txt").resolve())
    numbers = {key: value for key, value in plain.items() if key not in ("runs", "inputs")}
    assert numbers == {key: value for key, value in presets.paper().items() if key not in ("runs", "inputs")}
    check_whole(plain)
    for tag in ("two-stream", "Two", "a b", "x\n"):
        with pytest.raises(ValueError, match="wanted lower-case letters and digits"):
            datasets.arid(tmp_path, arid_lists, tag=tag)


def test_a_bad_label_in_a_published_list_is_named_before_anything_runs(tmp_path, arid_lists):
    write(arid_lists / "ARID_split3_test.txt", "0\t11\tWave/Wave_1_1.avi\n")
    with pytest.raises(ValueError, match=r"ARID_split3_test\.txt:1: class id 11 .* is none of 0, 1"):
        datasets.arid(tmp_path, arid_lists)


def test_arid15_takes_given_lists_only(tmp_path, arid_lists):
    train, test = arid_lists / "ARID_split1_train.txt", arid_lists / "ARID_split1_test.txt"
    params = datasets.arid15(tmp_path, train=train, test=test)
    assert params["runs"] == ["arid15-1"]
    assert params["inputs"]["arid15-1"]["classes"] == presets.ARID_CLASSES
    assert params["inputs"]["arid15-1"]["class_ids"] == list(range(11))
    assert labels_in(params["inputs"]["arid15-1"], "train") == [1]
    check_whole(params)
    classes = arid_lists / "mapping_table.txt"
    tagged = datasets.arid15(tmp_path, train=train, test=test, classes=classes, split=2, tag="own")
    assert tagged["inputs"]["arid15-own-2"]["classes"] == ["Drink", "Jump"]
    for given in ({"train": train, "test": None}, {"train": None, "test": test}):
        with pytest.raises(ValueError, match=r"the lists of ARID v1\.5 are not published.*give --train and --test"):
            datasets.arid15(tmp_path, **given)
    with pytest.raises(ValueError, match="split: found 0, wanted 1 to 3"):
        datasets.arid15(tmp_path, train=train, test=test, split=0)


def test_arids_third_list_is_refused_as_training_and_as_test_list(tmp_path, arid_lists):
    other = write(arid_lists / "ARID_split1_other.txt", "0\t0\tDrink/Drink_13_8.avi\n")
    good = arid_lists / "ARID_split1_train.txt"
    for train, test in ((other, good), (good, other)):
        with pytest.raises(ValueError, match=r"ARID_split1_other\.txt: .*surplus clips .* scenes of the test"):
            datasets.arid15(tmp_path, train=train, test=test)


def test_ug2_has_six_outputs_for_the_ids_five_to_ten(tmp_path):
    params = datasets.ug2(tmp_path, write_ug2(tmp_path / "lists"))
    assert params["runs"] == ["ug2-1"]
    entry = params["inputs"]["ug2-1"]
    assert (len(entry["classes"]), entry["class_ids"]) == (6, [5, 6, 7, 8, 9, 10])
    assert labels_in(entry, "train") == [5, 0]
    assert labels_in(entry, "test") == [-1, -1]
    check_whole(params)


def test_a_training_list_without_labels_is_refused(tmp_path):
    lists = write_ug2(tmp_path / "lists")
    write(lists / "ARID1.1_t1_train_pub.csv", "VideoID,Video\n0,Wave/Wave_10_1.mp4\n")
    with pytest.raises(ValueError, match=r"train_pub\.csv:2: Wave/Wave_10_1\.mp4 has no label"):
        datasets.ug2(tmp_path, lists)


@pytest.mark.parametrize("below", ["", "annotations"])
def test_dark48_has_the_splits_whose_lists_are_there(tmp_path, below):
    lists = tmp_path / "lists"
    folder = write_dark48(lists / below, splits=(1, 3))
    # A training list alone makes no split.
    write(folder / "train_split2.txt", "ascending/a_1.mp4 0")
    params = datasets.dark48(tmp_path, lists)
    assert params["runs"] == ["dark48-1", "dark48-3"]
    assert datasets.dark48(tmp_path, lists, tag="gamma")["runs"] == ["dark48-gamma-1", "dark48-gamma-3"]
    entry = params["inputs"]["dark48-3"]
    assert entry["train"] == str((folder / "train_split3.txt").resolve())
    assert labels_in(entry, "train") == [0, 1]
    assert labels_in(entry, "test") == [2, 0]
    check_whole(params)


def test_dark48_trains_fifty_epochs_and_only_reports_the_leaks_it_is_published_with(tmp_path):
    params = datasets.dark48(tmp_path, write_dark48(tmp_path / "lists"))
    changed = {
        (section, key)
        for section, values in presets.paper().items()
        if section not in ("runs", "inputs")
        for key, value in (values.items() if isinstance(values, dict) else [])
        if params[section][key] != value
    }
    assert changed == {
        ("teacher", "epochs"),
        ("student", "epochs"),
        ("logits", "views"),
        ("prepare", "on_leak"),
        ("prepare", "scene_pattern"),
    }
    assert (params["teacher"]["epochs"], params["student"]["epochs"], params["logits"]["views"]) == (50, 50, 50)
    assert params["prepare"]["on_leak"] == "report"


def test_dark48_without_a_whole_split_names_the_wanted_lists(tmp_path):
    folder = write_dark48(tmp_path / "lists", splits=())
    write(folder / "train_split1.txt", "ascending/a_1.mp4 0")
    with pytest.raises(ValueError, match=r"no split with both lists, wanted train_split1\.txt and test_split1\.txt"):
        datasets.dark48(tmp_path, folder)


def test_own_lists_take_their_ids_from_the_table(tmp_path):
    train = write(tmp_path / "train.txt", "a/one_1.mp4 30\nb/two_1.mp4 7")
    test = write(tmp_path / "test.csv", "Video\na/three_1.mp4\n")
    classes = write(tmp_path / "classes.txt", "7,Walk\n30,Run\n")
    params = datasets.own("night", videos=tmp_path, train=train, test=test, classes=classes, model="r2plus1d_tiny")
    entry = params["inputs"]["night"]
    assert (entry["classes"], entry["class_ids"]) == (["Walk", "Run"], [7, 30])
    assert labels_in(entry, "train") == [1, 0]
    assert labels_in(entry, "test") == [-1]
    check_whole(params)
    with pytest.raises(ValueError, match=r"train\.txt:1: gives class id 30 without a name; add --classes TABLE"):
        datasets.own("night", videos=tmp_path, train=train, test=test, classes=None, model="r2plus1d_tiny")


def test_own_lists_with_names_count_their_classes_from_zero(tmp_path):
    train = write(tmp_path / "train.csv", "path,label\na.mp4,Walk\nb.mp4,Run\n")
    test = write(tmp_path / "test.csv", "path\nc.mp4\n")
    params = datasets.own("night", videos=tmp_path, train=train, test=test, classes=None, model="r2plus1d_tiny")
    entry = params["inputs"]["night"]
    assert (entry["classes"], entry["class_ids"]) == (["Run", "Walk"], [0, 1])
    assert labels_in(entry, "test") == [-1]


def test_a_folder_of_class_folders_counts_its_classes_from_zero(tmp_path):
    for name in ("Walk/a.mp4", "Run/b.mp4"):
        write(tmp_path / "clips" / name, "x")
    entry = datasets.own_folder("night", tmp_path / "clips", model="r2plus1d_tiny")["inputs"]["night"]
    assert (entry["classes"], entry["class_ids"]) == (["Run", "Walk"], [0, 1])
    assert entry["train"] == entry["test"] == entry["videos"]


def test_names_of_the_presets_runs_are_kept_for_them(tmp_path):
    for name in ("arid-2", "dark48-own-1"):
        with pytest.raises(ValueError, match=f"run name '{name}': is kept for runs of the published splits"):
            datasets.own(name, videos=tmp_path, train=tmp_path, test=tmp_path, classes=None, model="r2plus1d_tiny")


def test_a_videos_root_that_is_not_there_is_named(tmp_path, arid_lists):
    with pytest.raises(ValueError, match=r"absent: no such folder; --videos names the root"):
        datasets.arid(tmp_path / "absent", arid_lists)


@pytest.mark.parametrize("path", ["data/$(touch x)", 'a"b', "a`b`", "a\\b", "a\nb", "-v"])
@pytest.mark.parametrize("place", ["videos", "train", "test"])
def test_a_path_that_a_shell_would_read_is_refused(tmp_path, place, path):
    params = presets.demo()
    params["inputs"]["demo"][place] = path
    with pytest.raises(
        ValueError, match=rf"inputs\.demo\.{place}: found {re.escape(repr(path))}, wanted a path without"
    ):
        presets.write_params(tmp_path / "params.yaml", params, name="demo", force=False)
    assert not (tmp_path / "params.yaml").exists()
    params["inputs"]["demo"][place] = "my videos/it's (1) & more; 100%"
    presets.write_params(tmp_path / "params.yaml", params, name="demo", force=False)
