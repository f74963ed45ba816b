"""Changes a module in every small way that cosmic-ray knows, and sees whether its tests notice.

python tests/mutants.py pipeline/distillation/losses.py tests/test_losses.py [--out mutants.json]

Needs `pip install cosmic-ray`. Each mutant is tried in a forked process that loads the changed source, so that nothing
on the disk changes and torch is imported once; what a test starts as a new program sees the module as it is. A mutant
that runs into the time limit counts as noticed, it loops. The last line gives the score. Linux only.
"""

import ast
import contextlib
import difflib
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

import click
import h5py  # noqa: F401 (imported once, before the forks)
import numpy  # noqa: F401
import parso.python.tree  # noqa: F401 (cosmic-ray's own order of imports meets a circle)
import pytest
import torch  # noqa: F401
from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[1]


class Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from another source."""

    def __init__(self, name, path, source):
        self.name, self.path, self.source = name, path, source

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self, origin=str(self.path)) if name == self.name else None

    def exec_module(self, module):
        module.__file__ = str(self.path)
        exec(compile(self.source, str(self.path), "exec"), module.__dict__)


def import_libraries(names):
    """Import what the tests import of others, so that no mutant's process has to."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collecting in a forked process would copy the memory that it shares


def foreign_modules():
    """Names of what is imported from outside this project."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    own = str(ROOT)
    return [
        name
        for name, file in files.items()
        if file is not None and (not file.startswith(own) or "site-packages" in file) and name != "__main__"
    ]


def try_mutant(module, source, tests, *, seconds, log, imported=None):
    """Fork, and run the tests there; the exit status, or minus the signal."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            for handle in (1, 2):
                os.dup2(log.fileno(), handle)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(seconds)
            name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
            sys.meta_path.insert(0, Changed(name, module, source))
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
            status = int(pytest.main([*options, *map(str, tests)]))
            if imported is not None:
                imported.write_text(json.dumps(foreign_modules()))
            os._exit(status)
        os._exit(70)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what its tests started
    return os.waitstatus_to_exitcode(status)


def evaluated(source):
    """The program without the annotations that nothing evaluates: of local names, and all where they are postponed."""
    tree = ast.parse(source)
    postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.AnnAssign):
                    node.annotation = ast.Constant(None)
                elif postponed and isinstance(node, ast.arg):
                    node.annotation = None
                elif postponed and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    node.returns = None
    return ast.dump(tree)


def mutants_of(module):
    """Line, name of the change, and changed source; equal programs once, and none that does not compile."""
    original = module.read_text(encoding="utf-8")
    seen = {evaluated(original)}
    for item in _all_work_items([module], {}):
        (change,) = item.mutations
        operator = get_operator(change.operator_name)(**change.operator_args)
        source = mutate_code(original, operator, change.occurrence)
        try:
            program = evaluated(source or original)
        except SyntaxError:
            continue
        if program in seen:
            continue
        seen.add(program)
        yield change.start_pos[0], change.operator_name.removeprefix("core/"), source


@click.command()
@click.argument("module", type=click.Path(exists=True, path_type=Path))
@click.argument("tests", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seconds", default=120, show_default=True, help="Time limit of a mutant.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the survivors here, json.")
@click.option("--part", default="1/1", show_default=True, help="Only every N-th mutant: I/N.")
def main(module, tests, seconds, out, part):
    """Try every mutant of MODULE with TESTS."""
    module, (own, parts) = module.resolve(), map(int, part.split("/"))
    original = module.read_text(encoding="utf-8").splitlines()
    tried, survivors = 0, []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        imported = Path(folder) / "imported.json"
        if try_mutant(module, "\n".join(original), tests, seconds=seconds * 10, log=log, imported=imported):
            log.seek(0)
            sys.exit(f"the tests fail without any change:\n{log.read().decode()}")
        import_libraries(json.loads(imported.read_text()))
        for number, (line, name, source) in enumerate(mutants_of(module)):
            if number % parts != own - 1:
                continue
            log.seek(0)
            log.truncate()
            status, tried = try_mutant(module, source, tests, seconds=seconds, log=log), tried + 1
            if status == 0:
                diff = difflib.unified_diff(original, source.splitlines(), lineterm="", n=0)
                survivors.append({"line": line, "change": name, "diff": list(diff)[3:]})
                print(f"{module.name}:{line} {name} survived: {survivors[-1]['diff']}", flush=True)
    noticed = tried - len(survivors)
    print(f"{module.relative_to(ROOT)}: {noticed} of {tried} mutants noticed, score {noticed / tried:.3f}")
    if out is not None:
        out.write_text(json.dumps({"module": str(module.relative_to(ROOT)), "tried": tried, "survivors": survivors}))


if __name__ == "__main__":
    main()
