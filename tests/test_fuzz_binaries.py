"""Every reader of checkpoints, weights and logit stores: only its documented errors come out, and name the file.

By default fifty cases a reader; DLKDD_FUZZ=10000 for the full number, DLKDD_FUZZ_SEED for other cases, -s to see
what was refused.
"""

import json
import re

import pytest
from fuzz_bytes import any_file, changed_tree, mutated
from fuzz_cases import CASES, fuzzed, new_reader, printed_readers
from fuzz_stores import make_case, recipes, rows_of, run_batch, write_store
from fuzz_texts import METRICS
from fuzz_weights import STATE, changed_archives, changed_headers, record_of, saved, with_record
from hypothesis import given
from hypothesis import strategies as st
from random_checkpoint import write_checkpoint
from safetensors.torch import save
from torch import device

from pipeline.distillation.logit_store import LogitStore
from pipeline.inference.loading import load_recogniser
from pipeline.inference.sidecar import model_card
from pipeline.models.state_dicts import read_state_dict
from pipeline.training.checkpoint import load_checkpoint, load_state

CPU = device("cpu")
BATCH = 25  # stores read in one child
IN_CHILD = 500  # stores for each that is also opened as an untrusted one, which starts a Python
SMALL = save({"a": STATE["a"]}, {"dl-kdd": "{}"})


@pytest.fixture(scope="module", autouse=True)
def lines():
    """One line a reader at the end."""
    with printed_readers():
        yield


# --- checkpoints and weights ---


def test_a_checkpoint_is_ready_to_use_or_refused_by_name(tmp_path):
    checkpoints, path = new_reader("checkpoint"), tmp_path / "student.safetensors"
    seeds = [write_checkpoint(tmp_path / f"{light}.safetensors", light=light) for light in ("none", "both")]
    seeds = [seed.read_bytes() for seed in seeds]

    @fuzzed()
    @given(st.data())
    def run(data):
        whole = data.draw(st.sampled_from(seeds))
        records = changed_tree(record_of(whole)).map(lambda record: with_record(whole, record))
        files = st.one_of(
            *(records, records, records, changed_headers(whole)),  # a record is looked at after all else
            any_file([with_record(SMALL, record_of(whole)), whole[:200_000]]),
        )
        path.write_bytes(data.draw(files))
        loaded = checkpoints.read(path, lambda: load_recogniser(path, device=CPU))
        if loaded is not None:
            rule = loaded.preprocessing.view_rule
            assert len(loaded.record.class_names) == loaded.record.model["num_classes"]
            assert 1 <= rule.size <= min(rule.frame_size)

    run()
    assert checkpoints.cases >= CASES


def test_the_record_of_a_checkpoint_is_whole_or_the_file_is_refused_by_name(tmp_path):
    records, path = new_reader("record of a checkpoint"), tmp_path / "student.safetensors"
    record = record_of(write_checkpoint(tmp_path / "sound.safetensors", light="both").read_bytes())
    texts = any_file([json.dumps(record).encode()]).map(lambda text: text.decode("utf-8", "replace"))

    @fuzzed()
    @given(st.one_of(changed_tree(record), texts))
    def run(changed):
        path.write_bytes(with_record(SMALL, changed))
        if (found := records.read(path, lambda: load_checkpoint(path))) is not None:
            assert found[1].kind in ("enhancer", "teacher", "student", "baseline")
            json.dumps(found[1].class_names, ensure_ascii=False).encode()

    run()
    assert records.cases >= CASES


@pytest.mark.filterwarnings("ignore")  # of torch, about pickles of another protocol and old storages
@pytest.mark.parametrize("form", ["safetensors", "zip", "pickle"])
def test_a_weights_file_gives_finite_tensors_no_larger_than_itself_or_is_refused_by_name(tmp_path, form):
    suffix = ".safetensors" if form == "safetensors" else ".pth"
    weights, path = new_reader(f"weights, {form}"), tmp_path / f"weights{suffix}"
    sound = save(STATE) if form == "safetensors" else saved(STATE, new_form=form == "zip")
    wrapped = sound if form == "safetensors" else saved({"state_dict": STATE, "epoch": 3}, new_form=form == "zip")
    changed = any_file([sound, wrapped])
    if form == "safetensors":
        changed = st.one_of(changed, changed_headers(save(STATE, {"dl-kdd": "x"})))
    if form == "zip":
        changed = st.one_of(mutated([sound, wrapped]), changed_archives(sound), changed_archives(wrapped))

    @fuzzed()
    @given(changed)
    def run(data):
        path.write_bytes(data)
        for tensor in (weights.read(path, lambda: read_state_dict(path)) or ({}, ""))[0].values():
            assert tensor.nbytes <= len(data)
            assert not tensor.is_floating_point() or bool(tensor.isfinite().all())

    run()
    assert weights.cases >= CASES


@pytest.mark.filterwarnings("ignore")  # of torch, about pickles of another protocol
def test_the_state_of_an_unfinished_training_loads_or_is_refused_by_name(tmp_path):
    states, path = new_reader("state of a training"), tmp_path / "state.pt"
    sound = saved({"model": STATE, "optimizer": {"state": {}}, "curve": [{"loss": 1.0}], "step": 3})

    @fuzzed()
    @given(st.one_of(any_file([sound]), changed_archives(sound)))
    def run(data):
        path.write_bytes(data)
        found = states.read(path, lambda: load_state(path))
        assert found is None or isinstance(found, dict)

    run()
    assert states.cases >= CASES


def test_the_figures_beside_a_checkpoint_are_joined_or_refused_by_name(tmp_path):
    figures, checkpoint = new_reader("figures beside a checkpoint"), tmp_path / "student.safetensors"
    path, card, digest = tmp_path / "metrics.json", tmp_path / "MODEL_CARD.md", "ab" * 32
    checkpoint.write_bytes(b"x")
    card.write_text(f"sha256 {digest}\n")
    texts = any_file([json.dumps(METRICS).encode()])

    @fuzzed()
    @given(st.one_of(changed_tree(METRICS).map(lambda tree: json.dumps(tree).encode()), texts))
    def run(data):
        path.write_bytes(data)
        found = figures.read(path, lambda: model_card(checkpoint, digest, "student"))
        own = found and found["figures"]
        assert own is None or isinstance(own["n"], int)

    run()
    assert figures.cases >= CASES


# --- logit stores ---


def test_a_logit_store_gives_the_rows_that_were_written_or_is_refused_by_name(tmp_path):
    stores, sound = new_reader("logit store"), tmp_path / "sound.h5"
    rows = write_store(sound)
    crashed = []

    @fuzzed(max(1, CASES // BATCH))
    @given(st.lists(recipes(sound.stat().st_size), min_size=BATCH, max_size=BATCH))
    def run(batch):
        while batch:
            done = run_batch(sound, tmp_path, rows, batch)
            for recipe, message, fault in done:
                stores.cases += 1
                if message is None:
                    crashed.append(keep_crash(sound, tmp_path, recipe, fault))
                    continue
                assert fault is None, (recipe, message, fault)
                if message == "accepted":
                    stores.accepted += 1
                else:
                    stores.refuse(message, tmp_path / "case.h5")
                if stores.cases % IN_CHILD == 1:
                    check_untrusted(sound, tmp_path / "untrusted.h5", recipe, message)
            batch = batch[len(done) :]

    run()
    assert stores.cases >= CASES
    for path, fault in crashed:
        print(f"logit store: {path}: {fault}")
        with pytest.raises(ValueError, match=r"libhdf5 (crashed|was still reading)"):
            LogitStore.open(path, untrusted=True)


def keep_crash(sound, folder, recipe, fault):
    """The file that ended a child, kept for a look at it."""
    path = folder / f"crash-{len(list(folder.glob('crash-*')))}.h5"
    make_case(sound, path, recipe)
    return path, f"{fault}: {recipe}"


def check_untrusted(sound, path, recipe, message):
    """A store that is opened in a child first is taken or refused as one that is opened at once."""
    make_case(sound, path, recipe)
    if message == "accepted":
        assert rows_of(LogitStore.open(path, untrusted=True))
    else:
        with pytest.raises((ValueError, OSError), match=re.escape(str(path))):
            LogitStore.open(path, untrusted=True)
