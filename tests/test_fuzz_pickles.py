"""A crafted pickle runs nowhere: under every suffix, at every place that weights are loaded from."""

import ast
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from fuzz_weights import STATE, Payload, saved

from pipeline.cli import cli
from pipeline.config import plain
from pipeline.distillation.logit_store import LogitStore
from pipeline.enhancers.zero_dce import load_official
from pipeline.inference.loading import load_recogniser, open_enhancer
from pipeline.models.state_dicts import read_state_dict
from pipeline.training.checkpoint import load_checkpoint, load_state
from pipeline.training.classification import new_classifier

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
SUFFIXES = (".pth", ".pt", ".tar", ".safetensors", "")
FORMS = ("zip", "old", "plain")


def craft(path, form):
    """A pickle that makes a folder beside itself where it may run code; returns that folder."""
    made = path.with_name("made")
    content = {**STATE, "state_dict": Payload(made)}
    path.write_bytes(pickle.dumps(content) if form == "plain" else saved(content, new_form=form == "zip"))
    return made


def as_pretrained(path, configs):
    new_classifier(plain(configs["student"]) | {"weights": str(path)}, num_classes=3, num_frames=4)


ENTRIES = {
    "read_state_dict": lambda path, configs: read_state_dict(path),
    "load_official": lambda path, configs: load_official(path),
    "enhancer": lambda path, configs: open_enhancer("zero_dce", path),
    "checkpoint": lambda path, configs: load_checkpoint(path),
    "teacher": lambda path, configs: load_recogniser(path, device=CPU, kind="teacher"),
    "student": lambda path, configs: load_recogniser(path, device=CPU, kind="student"),
    "student.weights": as_pretrained,
    "state": lambda path, configs: load_state(path),
    "store": lambda path, configs: LogitStore.open(path),
}


@pytest.mark.filterwarnings("ignore")  # of torch, about pickles of another protocol
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_crafted_pickle_is_refused_by_name_and_not_run(tmp_path, small_configs, entry):
    configs = small_configs()
    for form in FORMS:
        for suffix in SUFFIXES:
            path = tmp_path / f"weights{suffix}"
            made = craft(path, form)
            with pytest.raises((ValueError, OSError), match=re.escape(str(path))) as error:
                ENTRIES[entry](path, configs)
            assert not made.exists(), (form, suffix)
            assert "weights_only" not in str(error.value)  # torch's advice to run it
            path.unlink()


@pytest.mark.parametrize("form", FORMS)
def test_the_crafted_pickle_would_run_where_code_is_allowed(tmp_path, form):
    path = tmp_path / "weights.pth"
    made = craft(path, form)
    pickle.loads(path.read_bytes()) if form == "plain" else torch.load(path, weights_only=False)
    assert made.is_dir()


@pytest.mark.filterwarnings("ignore")  # of torch, about pickles of another protocol
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_no_command_runs_a_crafted_pickle(tmp_path, make_video, suffix):
    make_video(tmp_path / "a.mp4")
    weights = tmp_path / f"weights{suffix}"
    made = craft(weights, "zip")
    for command in (
        ["predict", weights, tmp_path / "a.mp4"],
        ["export", weights, "--format", "torch"],
        ["brighten", tmp_path / "a.mp4", tmp_path / "b.mp4", "--weights", weights],
    ):
        result = CliRunner().invoke(cli, [str(part) for part in command])
        assert result.exit_code == 1, result.output
        assert str(weights) in result.output + str(result.exception)
        assert not made.exists()
        assert not (tmp_path / "b.mp4").exists()


# --- places that could run a file's code ---

RUNS_CODE = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "torch.jit.load",
    "eval",
    "exec",
    "np.load",
}


def calls_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}


def test_every_place_that_could_unpickle_a_file_forbids_it():
    found = Counter()
    for path in (file for folder in ("pipeline", "stages") for file in (ROOT / folder).rglob("*.py")):
        for name, words in calls_of(ast.parse(path.read_text(encoding="utf-8"))):
            assert name not in RUNS_CODE, path
            if name == "torch.load":
                assert words["weights_only"] == "True", path
                found[name] += 1
            if name == "YAML" and words:
                assert words["typ"] == "'safe'", path
                found[name] += 1
            assert "allow_pickle" not in words, path
    assert found["torch.load"] == 2
    assert found["YAML"] >= 1
