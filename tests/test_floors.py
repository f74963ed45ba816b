import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.cli import cli
from pipeline.clips.views import ViewRule
from pipeline.config import BaselineConfig, EnhancerConfig
from pipeline.pages import report_origin
from pipeline.pages.page import TEMPLATES
from pipeline.pages.run_files import FILES
from pipeline.training.work_folder import source_files

ROOT = Path(__file__).parents[1]
STAGES = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}

# Lowest first; an import points down, or sideways inside one sub-package.
FLOORS = [
    {"pipeline.config", "pipeline.mapping_file", "pipeline.version"},
    {"pipeline.dvc_lock", "pipeline.params"},
    {"pipeline.clips", "pipeline.models"},
    {"pipeline.enhancers"},
    {"pipeline.training"},
    {"pipeline.distillation", "pipeline.inference", "pipeline.tables"},
    {"pipeline.pages"},
    {"stages"},
    {"pipeline.presets", "pipeline.doctor", "pipeline.store_checks", "pipeline.speed"},
    {"pipeline.datasets", "pipeline.studies"},
    {"pipeline.commands"},
    {"pipeline.cli"},
    {"pipeline.__main__"},
]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module):
    """The sub-package, or the module where it stands alone."""
    parts = module.split(".")
    return parts[0] if parts[0] == "stages" else ".".join(parts[:2])


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*name.split("."))).with_suffix(".py").exists()
                yield name if is_module else node.module


def sources():
    return [path for folder in ("pipeline", "stages") for path in sorted((ROOT / folder).rglob("*.py"))]


def problems_of(path, names):
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    room = room_of(module_of(path))
    for name in names:
        if name.split(".")[0] not in ("pipeline", "stages") or room_of(name) == room:
            continue
        if floor[room_of(name)] >= floor[room]:
            yield f"{module_of(path)} imports {name}, which lies higher or beside it"


def test_imports_point_down():
    problems = []
    for path in sources():
        if path.name != "__init__.py":
            problems += problems_of(path, imports_of(path))
    assert problems == []


def test_an_import_that_points_up_would_be_seen():
    path = ROOT / "pipeline" / "clips" / "views.py"
    assert list(problems_of(path, ["stages.student"]))
    assert list(problems_of(path, ["pipeline.models.r2plus1d"]))
    assert not list(problems_of(path, ["pipeline.clips.video", "torch"]))


def test_packages_hold_nothing_but_a_docstring():
    for path in sources():
        if path.name == "__init__.py":
            body = ast.parse(path.read_text(encoding="utf-8")).body
            assert len(body) == 1, path
            assert isinstance(body[0], ast.Expr), path


@pytest.mark.parametrize(
    ("module", "owners"),
    [("av", ("pipeline/clips/video.py", "pipeline/clips/stream.py")), ("h5py", ("logit_store",))],
)
def test_one_place_alone_knows_a_file_format(module, owners):
    for path in sources():
        if any(name.split(".")[0] == module for name in imports_of(path)):
            assert any(owner in path.as_posix() for owner in owners)


def test_the_students_import_closure_holds_no_enhancer():
    code = "import sys, stages.student; print([m for m in sys.modules if m.startswith('pipeline.enhancers')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_command_waits_for_libraries_that_it_may_not_need():
    names = [module_of(path).removesuffix(".__init__") for path in sources() if path.name != "__main__.py"]
    slow = ("torchvision", "torchmetrics", "scipy.stats", "onnx")
    code = f"import sys, {', '.join(names)}; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    code = "import sys, stages.render, stages.prepare, pipeline.studies.table; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def declared():
    stages = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {name: stage.get("do", stage) for name, stage in stages.items()}


def test_stage_module_and_subcommand_have_one_name():
    assert set(declared()) == STAGES
    assert set(cli.commands) >= STAGES
    for name, stage in declared().items():
        assert stage["cmd"].split()[:2] == ["dlkdd", name]


LOADED_BY_EACH = """
import importlib, json, multiprocessing, sys
import av, h5py, torch, torchvision  # once for all, as nothing of this project is loaded by them

def loaded(stage):
    importlib.import_module(f"stages.{stage}")
    own = [m.__file__ for name, m in sys.modules.items() if name.split(".")[0] in ("pipeline", "stages")]
    return [file for file in own if file and not file.endswith("__init__.py")]

with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps({stage: pool.apply(loaded, [stage]) for stage in sys.argv[1:]}))
"""


@pytest.fixture(scope="module")
def loaded_by():
    """The files that Python really loads, by stage, each in a process of its own."""
    command = [sys.executable, "-c", LOADED_BY_EACH, *sorted(STAGES)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("stage", sorted(STAGES))
def test_declared_code_is_what_the_stage_imports(stage, loaded_by):
    """Against the modules that Python really loads, and against the key of the work folder."""
    loaded = {Path(file).relative_to(ROOT).as_posix() for file in loaded_by[stage]} - {"pipeline/config.py"}
    in_dvc = {dep for dep in declared()[stage]["deps"] if dep.endswith(".py")}
    assert in_dvc == loaded
    assert {path.relative_to(ROOT).as_posix() for path in source_files(f"stages.{stage}")} == loaded


def test_declared_parameters_are_those_that_the_stages_read():
    def names(kind, section, leave_out=()):
        return {f"{section}.{field.name}" for field in dataclasses.fields(kind)} - set(leave_out)

    params = {name: set(stage["params"]) for name, stage in declared().items()}
    machine = {"compute.device", "compute.threads", "compute.deterministic"}
    classified = machine | {"compute.precision"}
    drawn = names(ViewRule, "views") | {"views.colour_range"}
    assert params["enhancer"] == names(EnhancerConfig, "enhancer", ["enhancer.on"]) | machine | {
        "views.frame_size",
        "views.colour_range",
    }
    assert params["teacher"] == {"teacher", "enhancer.on"} | drawn | classified
    assert params["logits"] == {"logits", "views.mode"} | classified
    assert params["student"] == {"student", "logits.views", "views"} | classified
    assert params["baseline"] == names(BaselineConfig, "student") | {"logits.views", "views"} | classified
    assert params["evaluate"] == {"evaluate"} | classified
    assert params["prepare"] == {"prepare", "views.colour_range", "inputs.${key}.classes", "inputs.${key}.class_ids"}
    assert params["render"] == {"render"}
    shown = {f"{section}.{key}" for section, keys in report_origin.KEYS.items() for key in keys}
    shown |= {f"inputs.${{key}}.{key}" for key in report_origin.INPUT_KEYS}
    assert params["report"] == {*report_origin.SECTIONS} | shown


def test_declared_files_are_those_of_the_command():
    templates = TEMPLATES.relative_to(ROOT).as_posix()
    for name, stage in declared().items():
        command = stage["cmd"]
        outs = [
            out if isinstance(out, str) else next(iter(out))
            for key in ("outs", "metrics", "plots")
            for out in stage.get(key, [])
        ]
        deps = [dep for dep in stage["deps"] if not dep.endswith(".py") and dep != templates]
        for path in [*outs, *deps]:
            # A command may also be given the folder of a run's files.
            named = path in command or str(Path(path).parent) in command.split()
            assert named, f"{name}: {path} is not in the command"


def test_the_report_depends_on_all_files_that_its_page_reads_and_on_how_it_is_laid_out():
    deps = [dep for dep in declared()["report"]["deps"] if not dep.endswith(".py")]
    assert sorted(deps) == sorted(
        [*(f"data/${{key}}/{name}" for name in FILES), TEMPLATES.relative_to(ROOT).as_posix()]
    )


def test_no_leftovers_in_the_code():
    for path in sources():
        text = path.read_text(encoding="utf-8")
        for word in ("TO" + "DO", "FIX" + "ME", "except Exception", "NotImplementedError"):
            assert word not in text, f"{path}: {word}"
