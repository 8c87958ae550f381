"""Where a report looks for results."""

import shutil

from mllm_srec.pipeline.report.sources import find_results
from tests.pipeline.grid.test_read import written  # noqa: F401 - a fixture


def test_quick_results_are_not_looked_for(written, tmp_path):  # noqa: F811
    for name in ("b", "a", "c-quick", "nested/d"):
        shutil.copytree(written, tmp_path / name)
    assert [path.name for path in find_results(tmp_path)] == ["a", "b", "d"]
    assert find_results(tmp_path / "nowhere") == []
    for name in ("figure5", "table4", "table3"):
        shutil.copytree(tmp_path / "a", tmp_path / name)
    found = [path.name for path in find_results(tmp_path)]
    assert found == ["table3", "table4", "figure5", "a", "b", "d"]
