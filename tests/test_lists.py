import re
from pathlib import Path

import pytest

from pipeline.clips.lists import (
    check_labelled,
    choose_scenes,
    class_names_of,
    find_video,
    label_of,
    read_class_table,
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


def test_published_csv_headers_are_known_in_any_case(tmp_path):
    path = write(tmp_path / "a.csv", "VideoID,Video,ClassID\n0,Wave/Wave_10_1.mp4,10\n1,Run/Run_1_2.mp4,5\n")
    assert lines_of(path) == [("Wave/Wave_10_1.mp4", 10, None), ("Run/Run_1_2.mp4", 5, None)]
    path = write(tmp_path / "b.csv", "CLASS,Path\nWalk,a.mp4\n")
    assert lines_of(path) == [("a.mp4", None, "Walk")]
    # VideoID is no path, and `label` goes before `class`.
    path = write(tmp_path / "c.csv", "VideoID,class,label,video\n7,Walk,3,a.mp4\n")
    assert lines_of(path) == [("a.mp4", 3, None)]


def test_a_csv_without_labels_is_unlabelled_and_no_training_list(tmp_path):
    path = write(tmp_path / "a.csv", "VideoID,Video\n0,0.mp4\n1,1.mp4\n")
    assert lines_of(path) == [("0.mp4", None, None), ("1.mp4", None, None)]
    gap = write(tmp_path / "b.csv", "path,label\na.mp4,Run\nb.mp4,\n")
    assert lines_of(gap) == [("a.mp4", None, "Run"), ("b.mp4", None, None)]
    assert class_names_of([read_list(each, videos=tmp_path) for each in (path, gap)]) == ["Run"]
    assert label_of(read_list(path, videos=tmp_path)[0], ["Run", "Sit"], [5, 6]) == -1
    with pytest.raises(ValueError, match=r"b\.csv:3: b\.mp4 has no label, which only a test clip may lack"):
        check_labelled(read_list(gap, videos=tmp_path))


def test_space_separated_lists_are_split_from_the_right(tmp_path):
    path = write(
        tmp_path / "a.txt",
        "bouncing/-abc_3.mp4 6\r\nspinning/-abc_3.mp4 42\nx/two words 7 8.mp4 12\ny/a.b_1.AVI 0",
    )
    assert lines_of(path) == [
        ("bouncing/-abc_3.mp4", 6, None),
        ("spinning/-abc_3.mp4", 42, None),
        ("x/two words 7 8.mp4", 12, None),
        ("y/a.b_1.AVI", 0, None),
    ]
    assert {line.num_frames for line in read_list(path, videos=tmp_path)} == {None}


def test_frame_lists_give_names_without_suffix_and_frame_counts(tmp_path):
    path = write(tmp_path / "a.txt", "bouncing/-abc_3 90 6\nx/v1.2_two words 3 11 12")
    found = [(line.path, line.num_frames, line.label) for line in read_list(path, videos=tmp_path)]
    assert found == [("bouncing/-abc_3", 90, 6), ("x/v1.2_two words 3", 11, 12)]


def test_the_first_line_decides_the_form_of_the_whole_list(tmp_path):
    for text, message in {
        "a/b.mp4 6\na/c 90 6\n": r"a\.txt:2: found 'a/c 90 6', wanted `folder/file\.mp4 label`",
        "a/c 90 6\n\na/b.mp4 6\n": r"a\.txt:3: found 'a/b\.mp4 6', wanted `folder/name frames label`",
        "a/b.mp4 6\n0\t6\ta/c.mp4\n": r"a\.txt:2: found '0\t6\ta/c\.mp4'",
        "0\t6\ta/c.mp4\na/b.mp4 6\n": r"a\.txt:2: found 'a/b\.mp4 6', wanted `index TAB",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_list(write(tmp_path / "a.txt", text), videos=tmp_path)


@pytest.mark.parametrize("name", ["ARID_split1_other.txt", "arid_split3_others.txt"])
def test_arids_third_list_is_refused_with_the_reason(tmp_path, name):
    path = write(tmp_path / name, "0\t0\tDrink/Drink_13_8.avi\n")
    with pytest.raises(ValueError, match=rf"{name}: .*nor a validation set: it holds the surplus clips"):
        read_list(path, videos=tmp_path)


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
        (
            "a.mp4\n",
            r"a\.txt:1: found 'a\.mp4', wanted `index TAB .*csv header with `path`.*`folder/name frames label`",
        ),
        ("a/b 1\n", r"a\.txt:1: found 'a/b 1', wanted `index TAB"),
        ("file,label\na.mp4,1\n", r"a\.txt:1: found 'file,label', wanted"),
        ("path,label\na.mp4,1,2\n", r"a\.txt:2: found .*wanted 2 fields"),
        ('path,label\n"a.mp4,1\n', r"a\.txt:2: found .*wanted 2 fields"),
        ("path,label\n,1\n", r"a\.txt:2: found ',1', wanted 2 fields as in the header, and a path"),
        ("a/../../b.mp4 1\n", r"a\.txt:1: .*leaves the videos' root"),
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


def test_a_label_is_the_position_of_the_class_id_or_name(tmp_path):
    path = write(tmp_path / "a.txt", "0\t9\ta.mp4\n1\t5\tb.mp4\n")
    nine, five = read_list(path, videos=tmp_path)
    assert (label_of(nine, ["Run", "Walk"], [5, 9]), label_of(five, ["Run", "Walk"], [5, 9])) == (1, 0)
    named = read_list(write(tmp_path / "b.csv", "path,label\na.mp4,Walk\n"), videos=tmp_path)[0]
    assert label_of(named, ["Run", "Walk"], [5, 9]) == 1


def test_labels_outside_the_classes_are_refused(tmp_path):
    path = write(tmp_path / "a.txt", "0\t2\ta.mp4\n1\t-1\tb.mp4\n2\t0\tc.mp4\n")
    for line in read_list(path, videos=tmp_path):
        with pytest.raises(ValueError, match=r"a\.txt:[123]: class id -?\d of [abc]\.mp4 is none of 5, 9; mend"):
            label_of(line, ["Run", "Walk"], [5, 9])
    named = read_list(write(tmp_path / "b.csv", "path,label\na.mp4,Fly\n"), videos=tmp_path)[0]
    with pytest.raises(ValueError, match=r"class 'Fly' of a\.mp4 is none of Run, Walk"):
        label_of(named, ["Run", "Walk"], [0, 1])


def test_the_suffix_on_disk_is_found(tmp_path):
    write(tmp_path / "Run/a.mp4", "x")
    assert find_video(tmp_path, "Run/a.mp4") == "Run/a.mp4"
    assert find_video(tmp_path, "Run/a.avi") == "Run/a.mp4"
    with pytest.raises(ValueError, match=r"b\.avi: no such file, nor with another video suffix"):
        find_video(tmp_path, "Run/b.avi")
    write(tmp_path / "Run/a.mkv", "x")
    with pytest.raises(ValueError, match=r"Run/a\.mkv, Run/a\.mp4 could all be meant"):
        find_video(tmp_path, "Run/a.avi")


def test_a_name_without_suffix_gets_each_appended_whatever_dots_it_has(tmp_path):
    write(tmp_path / "x/v1.2_3.mp4", "x")
    write(tmp_path / "y/v1.2_3.avi", "x")
    # Swapping what follows the last dot would ask for x/v1.mp4.
    write(tmp_path / "x/v1.mp4", "x")
    assert find_video(tmp_path, "x/v1.2_3") == "x/v1.2_3.mp4"
    assert find_video(tmp_path, "y/v1.2_3") == "y/v1.2_3.avi"
    with pytest.raises(ValueError, match=r"x/v1\.9: no such file"):
        find_video(tmp_path, "x/v1.9")
    write(tmp_path / "x/v1.2_3.mkv", "x")
    with pytest.raises(ValueError, match=r"x/v1\.2_3\.mkv, x/v1\.2_3\.mp4 could all be meant"):
        find_video(tmp_path, "x/v1.2_3")


def test_class_tables_may_start_anywhere_and_have_gaps_but_no_doubles(tmp_path):
    table = write(tmp_path / "a.txt", "10\tWalk\r\n5\tTake off\r\n7,Run")
    assert read_class_table(table) == ([5, 7, 10], ["Take off", "Run", "Walk"])
    for text, message in {
        "0\tA\n0\tB\n": r"a\.txt:2: class id 0 stands twice",
        "0\tA\n1\tA\n": r"a\.txt:2: class 'A' stands twice",
        "A\n": r"a\.txt:1: found 'A'",
        "-1\tA\n": r"a\.txt:1: found '-1\tA'",
        "\n": "the table is empty",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_class_table(write(tmp_path / "a.txt", text))
    with pytest.raises(ValueError, match=r"none\.txt: no such table"):
        read_class_table(tmp_path / "none.txt")


def test_scenes_come_from_the_pattern_or_are_the_clip():
    assert scene_of("Run/Run_7_12.mp4", r"^(.*)_(\d+)_\d+\.[^.]+$") == "Run/Run/7"
    assert scene_of("Run/Run_cellar_12.mp4", r"_([^_/]+)_\d+\.[^.]+$") == "cellar"
    assert scene_of("odd.mp4", r"_(\d+)_\d+") == "odd.mp4"
    assert scene_of("odd.mp4", "") == "odd.mp4"


def test_a_subsets_folder_is_no_part_of_the_scene():
    pattern = r"^(.*)_(\d+)_\d+\.[^.]+$"
    assert {scene_of(f"{folder}Run/Run_7_12.mp4", pattern) for folder in ("", "train/", "Test/")} == {"Run/Run/7"}
    assert scene_of("train/Run/odd.mp4", pattern) == "train/Run/odd.mp4"
    assert scene_of("train/train_7_12.mp4", pattern) == "train/train/7"  # a class of this name


def test_held_out_scenes_are_whole_and_leave_every_class_a_clip():
    scenes, labels = ["a", "a", "b", "b", "c"], [0, 1, 0, 1, 2]
    assert choose_scenes(scenes, labels, order=["c", "b", "a"], count=1, parameter="prepare.holdout") == {"b"}
    with pytest.raises(ValueError, match=r"prepare\.holdout: 2 scenes wanted, but only 1 of 3"):
        choose_scenes(scenes, labels, order=["c", "b", "a"], count=2, parameter="prepare.holdout")


def test_the_published_lists_of_arid6_are_read(arid6):
    counts = {name: len(read_list(arid6 / f"{name}.txt", videos=arid6 / "videos")) for name in ("train", "validate")}
    assert counts == {"train": 150, "validate": 96}
    names = ["Jump", "Run", "Sit", "Stand", "Turn", "Walk"]
    assert read_class_table(arid6 / "mapping_table.txt") == (list(range(6)), names)


def test_egogest_lists_and_scenes_are_read(egogest10):
    test = read_list(egogest10 / "split1_test.txt", videos=egogest10 / "videos")
    assert len(test) == 60
    assert all((egogest10 / "videos" / line.path).is_file() for line in test)
    assert re.fullmatch(r"[a-z]+/[a-z]+_\d+\.mp4", test[0].path)
    ids, names = read_class_table(egogest10 / "mapping_table.txt")
    assert all(Path(line.path).parent.name == names[label_of(line, names, ids)] for line in test)
