"""The share of tested branches that CI demands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BRANCHES = Path(__file__).with_name("branches.py")


@pytest.mark.parametrize(
    ("covered", "total", "code", "said"),
    [
        (90, 100, 0, "90 of 100 branches, 90.0 %; wanted 90 %"),
        (89, 100, 1, "a.py: 8 not taken\nb.py: 3 not taken\n"),
        (0, 0, 1, "found no branches"),
    ],
)
def test_too_few_branches_are_refused_with_where_they_lie(tmp_path, covered, total, code, said):
    files = {name: {"summary": {"missing_branches": missing}} for name, missing in (("b.py", 3), ("a.py", 8))}
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps({"totals": {"covered_branches": covered, "num_branches": total}, "files": files}))
    result = subprocess.run([sys.executable, BRANCHES, path], capture_output=True, text=True)
    assert result.returncode == code
    assert said in result.stdout + result.stderr
