"""Figure 7: what the script writes is what the report shows, and both are the cases."""

import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest

from mllm_srec.__main__ import main
from mllm_srec.pipeline.report.case_studies import case_studies
from mllm_srec.reports.page.case_files import read_cases, write_cases
from mllm_srec.types import ConfigError, DataError

EVIL = "mug | <script>alert(1)</script>\n# [x](javascript:1) ![](a.svg) `$e$` \u202e"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[3] / "experiments")
        yield importlib.import_module("figure7")


def hostile(studies):
    """The same cases with texts that nobody should trust."""

    def item(of):
        return dataclasses.replace(of, title=EVIL, item_id=EVIL, image_summary=EVIL, item_summary=None)

    cases = [
        dataclasses.replace(
            case, user_id=EVIL, profile=EVIL, preference=EVIL, history=tuple(map(item, case.history)),
            targets=tuple(dataclasses.replace(target, item=item(target.item)) for target in case.targets),
        )
        for case in studies.cases
    ]  # fmt: skip
    return dataclasses.replace(studies, run=EVIL, rule=EVIL, cases=tuple(cases))


def test_what_was_written_is_read_again(told_run, tmp_path):
    studies = case_studies(told_run, 2, 2, seed=1)
    assert any(
        item.picture is None for case in studies.cases for item in (*case.history, *(t.item for t in case.targets))
    )
    for demo in (True, False):
        write_cases(studies, demo, tmp_path / "out")
        assert read_cases(tmp_path / "out") == (studies, demo)
    assert read_cases(tmp_path / "out")[0] != case_studies(told_run, 2, 2, seed=2)


def test_pictures_are_those_of_the_cases(told_run, tmp_path):
    first, second = case_studies(told_run, 3, 3, seed=0), case_studies(told_run, 1, 0, seed=3)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/holiday.jpg").write_bytes(b"somebody's own")
    for studies in (first, second):  # into the same folder: pictures of the first go
        write_cases(studies, False, tmp_path)
        items = [item for case in studies.cases for item in (*case.history, *(t.item for t in case.targets))]
        shown = {path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
        assert shown == {item.picture for item in items if item.picture is not None} | {b"somebody's own"}
        named = re.findall(r"!\[\]\(([^)]+)\)", (tmp_path / "figure7.md").read_text())
        assert len(named) == sum(item.picture is not None for item in items)
        assert all((tmp_path / name).is_file() for name in named)


def test_the_text_says_what_the_cases_are(told_run, tmp_path):
    studies = case_studies(told_run, 2, 1, seed=1)
    write_cases(studies, True, tmp_path)
    text = (tmp_path / "figure7.md").read_text()
    assert "generated demo shop" in text
    for case in studies.cases:
        assert f"{case.verdict}: person {case.user_id}" in text
        for target in case.targets:
            truth = "liked later" if target.liked else "no known like"
            assert re.search(rf"\| {target.place}[^|]*\| {100 * target.probability:.1f}% \| {truth} \|", text)
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == len(studies.cases)


def test_texts_of_strangers_stay_texts(told_run, tmp_path):
    studies = hostile(case_studies(told_run, 2, 1, seed=1))
    write_cases(studies, False, tmp_path)
    text = (tmp_path / "figure7.md").read_text()
    assert read_cases(tmp_path)[0] == studies
    assert "<script" not in text
    assert "\u202e" not in text
    assert "](javascript" not in text.replace("\\]", "")
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if "liked later |" in line} == {8}
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    report = tmp_path / "report"
    assert main(["report", str(tmp_path), "--output", str(report)]) == 0
    page = (report / "index.html").read_text()
    assert "Figure 7: case studies" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page


def test_damaged_files_are_named(told_run, tmp_path):
    write_cases(case_studies(told_run, 1, 1), False, tmp_path)
    about = json.loads((tmp_path / "figure7.json").read_text())
    next((tmp_path / "pictures").iterdir()).unlink()
    with pytest.raises(
        DataError, match=r"figure7\.json: the case studies cannot be read .*No such file.*make them again"
    ):
        read_cases(tmp_path)
    for content in ("{}", "[", json.dumps({**about, "cases": [{"user_id": "u"}]})):
        (tmp_path / "figure7.json").write_text(content)
        with pytest.raises(DataError, match="make them again"):
            read_cases(tmp_path)


def test_the_command(script, told_run, tmp_path, monkeypatch, capsys):
    output = tmp_path / "experiments/results/figure7"
    command = ["figure7.py", str(told_run), "--cases", "1", "--seed", "5", "--output", str(output)]
    monkeypatch.setattr("sys.argv", command)
    script.main()
    assert "figure7.md" in capsys.readouterr().out
    assert read_cases(output) == (case_studies(told_run, 1, 1, 5), False)
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 0  # which finds it by itself
    assert "drawn at random with seed 5" in Path("report/index.html").read_text()
    for bad, said in (([str(tmp_path)], "config.yaml"), ([str(told_run), "--cases", "0"], "--cases 0")):
        monkeypatch.setattr("sys.argv", ["figure7.py", *bad, "--output", str(tmp_path / "none")])
        with pytest.raises(SystemExit):
            script.main()
        assert said in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="not a run folder"):
        script.make_figure(tmp_path, tmp_path / "none")
