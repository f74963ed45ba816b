import re
from pathlib import Path

import pytest

from pipeline.clips.lists import (
    choose_scenes,
    class_names_of,
    find_video,
    label_of,
    read_class_names,
    read_list,
    scene_of,
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def lines_of(path, **more):
    return [(line.path, line.label, line.class_name) for line in read_list(path, videos=path.parent, **more)]


def test_arids_tab_form_is_read_with_either_line_end(tmp_path):
    for end in ("\n", "\r\n"):
        path = write(tmp_path / "a.txt", f"0\t3\tPour/Pour_1_2.avi{end}1\t0\tDrink/Drink_4_1.avi{end}")
        assert lines_of(path) == [("Pour/Pour_1_2.avi", 3, None), ("Drink/Drink_4_1.avi", 0, None)]


def test_csv_gives_ids_or_names_in_any_column_order(tmp_path):
    path = write(tmp_path / "a.csv", 'label,note,path\n2,x,"a, b/c.mp4"\nWalk,,d.mp4')
    assert lines_of(path) == [("a, b/c.mp4", 2, None), ("d.mp4", None, "Walk")]


def test_a_folder_of_class_folders_is_a_list(tmp_path):
    for name in ("train/Walk/b.mp4", "train/Run/deep/a.MP4", "train/Run/notes.txt", "train/loose.mp4"):
        write(tmp_path / name, "x")
    found = read_list(tmp_path / "train", videos=tmp_path)
    assert [(line.path, line.class_name) for line in found] == [
        ("train/Run/deep/a.MP4", "Run"),
        ("train/Walk/b.mp4", "Walk"),
    ]
    assert class_names_of([found]) == ["Run", "Walk"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("\n \n", "the list is empty"),
        ("path,label\n", "the list is empty"),
        ("0\t1\n", r"a\.txt:1: found '0\\t1'|a\.txt:1: found '0\t1'"),
        ("0\tone\ta.mp4\n", r"a\.txt:1: found .*wanted `index TAB class id TAB path`"),
        ("0\t1\ta.mp4\n1\t1\n", r"a\.txt:2"),
        ("a.mp4 1\n", r"a\.txt:1: found the header 'a\.mp4 1', wanted `path,label`"),
        ("path,label\na.mp4,1,2\n", r"a\.txt:2: found .*wanted 2 fields"),
        ("0\t1\t/etc/passwd\n", r"a\.txt:1: path '/etc/passwd' leaves the videos' root"),
        ("0\t1\ta/../../b.mp4\n", r"a\.txt:1: .*leaves the videos' root"),
    ],
)
def test_bad_lists_name_file_line_found_and_wanted(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_list(write(tmp_path / "a.txt", text), videos=tmp_path)


def test_a_list_in_another_encoding_is_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_bytes("0\t1\tcafé.mp4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt: is no UTF-8 text"):
        read_list(tmp_path / "a.txt", videos=tmp_path)


def test_a_folder_list_must_lie_below_the_videos_root(tmp_path):
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match="must lie below the videos' root"):
        read_list(tmp_path, videos=tmp_path / "videos")


def test_a_missing_list_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"none\.txt: no such list"):
        read_list(tmp_path / "none.txt", videos=tmp_path)


def test_labels_outside_the_classes_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", "0\t2\ta.mp4\n1\t-1\tb.mp4\n2\t1\tc.mp4\n")
    high, negative, good = read_list(path, videos=tmp_path)
    assert label_of(good, ["Run", "Walk"]) == 1
    for line in (high, negative):
        with pytest.raises(ValueError, match=r"a\.txt:[12]: class id -?\d of [ab]\.mp4 lies outside 0 to 1"):
            label_of(line, ["Run", "Walk"])
    named = read_list(write(tmp_path / "b.csv", "path,label\na.mp4,Fly\n"), videos=tmp_path)[0]
    with pytest.raises(ValueError, match=r"class 'Fly' of a\.mp4 is none of Run, Walk"):
        label_of(named, ["Run", "Walk"])


def test_the_suffix_on_disk_is_found(tmp_path):
    write(tmp_path / "Run/a.mp4", "x")
    assert find_video(tmp_path, "Run/a.mp4") == "Run/a.mp4"
    assert find_video(tmp_path, "Run/a.avi") == "Run/a.mp4"
    with pytest.raises(ValueError, match=r"b\.avi: no such file, nor with another video suffix"):
        find_video(tmp_path, "Run/b.avi")
    write(tmp_path / "Run/a.mkv", "x")
    with pytest.raises(ValueError, match=r"Run/a\.mkv, Run/a\.mp4 could all be meant"):
        find_video(tmp_path, "Run/a.avi")


def test_class_tables_must_count_from_zero(tmp_path):
    assert read_class_names(write(tmp_path / "a.txt", "1\tWalk\r\n0\tTake off\r\n")) == ["Take off", "Walk"]
    for text, message in {
        "0\tA\n2\tB\n": r"found class ids \[0, 2\]",
        "0\tA\n0\tB\n": "class id 0 stands twice",
        "A\n": r"a\.txt:1: found 'A'",
        "": "found class ids",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_class_names(write(tmp_path / "a.txt", text))


def test_scenes_come_from_the_pattern_or_are_the_clip():
    assert scene_of("Run/Run_7_12.mp4", r"^(.*)_(\d+)_\d+\.[^.]+$") == "Run/Run/7"
    assert scene_of("Run/Run_cellar_12.mp4", r"_([^_/]+)_\d+\.[^.]+$") == "cellar"
    assert scene_of("odd.mp4", r"_(\d+)_\d+") == "odd.mp4"
    assert scene_of("odd.mp4", "") == "odd.mp4"


def test_held_out_scenes_are_whole_and_leave_every_class_a_clip():
    scenes, labels = ["a", "a", "b", "b", "c"], [0, 1, 0, 1, 2]
    assert choose_scenes(scenes, labels, order=["c", "b", "a"], count=1, parameter="prepare.holdout") == {"b"}
    with pytest.raises(ValueError, match=r"prepare\.holdout: 2 scenes wanted, but only 1 of 3"):
        choose_scenes(scenes, labels, order=["c", "b", "a"], count=2, parameter="prepare.holdout")


def test_the_published_lists_of_arid6_are_read(arid6):
    counts = {name: len(read_list(arid6 / f"{name}.txt", videos=arid6 / "videos")) for name in ("train", "validate")}
    assert counts == {"train": 150, "validate": 96}
    assert read_class_names(arid6 / "mapping_table.txt") == ["Jump", "Run", "Sit", "Stand", "Turn", "Walk"]


def test_egogest_lists_and_scenes_are_read(egogest10):
    test = read_list(egogest10 / "split1_test.txt", videos=egogest10 / "videos")
    assert len(test) == 60
    assert all((egogest10 / "videos" / line.path).is_file() for line in test)
    assert re.fullmatch(r"[a-z]+/[a-z]+_\d+\.mp4", test[0].path)
    assert Path(test[0].path).parent.name == read_class_names(egogest10 / "mapping_table.txt")[test[0].label]
