"""The recipes of CONTRIBUTING are followed: what they name exists, and three of them are done step by step."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import pandas as pd
import polars as pl
import pytest
import torch

from mllm_srec.cli.commands.summarize import add_flags
from mllm_srec.cli.parser import known_names
from mllm_srec.cli.schema import full_parser
from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.settings import PictureSettings
from mllm_srec.metrics import functional
from mllm_srec.metrics.evaluation import EvaluationMetrics
from mllm_srec.pipeline.evaluation.references import split_metrics
from mllm_srec.pipeline.grid.settings import GridRow, GridSettings, Significance, check_grid
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.reports.tables import metric_words
from mllm_srec.reports.terminal.results import print_results
from mllm_srec.summaries import run
from mllm_srec.summaries.inputs import SummaryInputs
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.settings import PARTS, STAGES, StageSettings, SummarySettings
from mllm_srec.types import ConfigError
from tests.docs.documents import CALL, PACKAGE, ROOT, existing, spans

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (Add an? [\w -]+)$(.*?)(?=^#{1,2} |\Z)", CONTRIBUTING, re.MULTILINE | re.DOTALL))
FOR_READERS = re.compile(rf"\(|{re.escape(CALL)}|make |--")
"""Shapes, commands and flags, which other tests read."""


# --- what recipes name --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def names():
    """Every name that the package defines, takes as an argument or sets, and every text in it that is one word."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found |= {getattr(node, field, None) for field in ("name", "id", "attr", "arg")}
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.fixture(scope="module")
def settings():
    """Every dotted setting."""
    return set(known_names(full_parser("prepare", "")))


def is_there(code, names, settings):
    """Whether a name in backticks means something: a path, a setting, or something of the package or a library."""
    code = code if code.startswith("(") else re.split(r"[(:=]", code)[0].strip()
    if FOR_READERS.match(code) or not code:
        return True
    if "/" in code or code.endswith((".py", ".md", ".yaml", ".toml")):
        return bool(existing(code))
    parts = code.split(".")
    if code in settings or set(parts) <= names:
        return True
    try:
        return len(parts) > 1 and hasattr(importlib.import_module(".".join(parts[:-1])), parts[-1])
    except ImportError:
        return False


def test_there_are_recipes():
    assert {"Add a data set", "Add a summary stage", "Add a baseline", "Add a metric"} <= set(RECIPES)
    for text in RECIPES.values():
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 2


@pytest.mark.parametrize("title", RECIPES)
def test_what_a_recipe_names_exists(title, names, settings):
    assert [code for code in spans(RECIPES[title]) if not is_there(code, names, settings)] == []


@pytest.mark.parametrize(
    "code",
    ["data/raw_<source>.py", "prompts/summary_templates.py", "read_rows", "prepare.sources", "torchmetrics.Metrik"],
)
def test_what_is_not_there_is_found(code, names, settings):
    assert not is_there(code, names, settings)


def step_files(title):
    """Files that a recipe tells to change or add, tests apart."""
    return {code for code in spans(RECIPES[title]) if code.endswith(".py") and not code.startswith("tests/")}


# --- a data set ---------------------------------------------------------------------------------------------------

READER = '''
"""The shop's export: one line of `user|item|stars` after another."""

from pathlib import Path

from mllm_srec.data.raw.amazon import items_without_metadata
from mllm_srec.data.raw.schema import INTERACTION_SCHEMA, RawData, RowBuffer


def read_shop(settings, report):
    """Read the export."""
    buffer = RowBuffer(INTERACTION_SCHEMA)
    for order, line in enumerate(Path(settings.reviews).read_text().splitlines()):
        if line.count("|") != 2:
            report.count("reviews", "not three fields", example=line)
            continue
        user, item, stars = line.split("|")
        buffer.append((user, item, float(stars), 1000 * order, order, ""))
    interactions = buffer.frame()
    return RawData(interactions, items_without_metadata(interactions, report))
'''
BRANCH = """    if settings.source == "shop":
        from mllm_srec.data.raw.shop import read_shop

        return read_shop(settings, report)
"""


def edited(path, before, after):
    """Put `after` in front of the only, or else the first, place of `before`."""
    text = path.read_text(encoding="utf-8")
    assert before in text, f"{path.name} has no {before!r}"
    path.write_text(text.replace(before, after + before, 1), encoding="utf-8")


@pytest.mark.slow
def test_a_raw_format_is_added_as_the_recipe_says(tmp_path):
    assert step_files("Add a data set") >= {"data/raw/<source>.py", "data/prepare.py"}
    copy = shutil.copytree(
        PACKAGE, tmp_path / "mllm_srec", ignore=shutil.ignore_patterns("__pycache__", "demo_backbone")
    )
    (copy / "data/raw/shop.py").write_text(READER, encoding="utf-8")
    edited(copy / "data/settings.py", ', "demo"]', ', "shop"')
    edited(copy / "data/prepare.py", '    if settings.source == "demo":\n        from mllm_srec.data.demo.shop', BRANCH)
    lines = [f"u{user}|i{item}|{5 - (user + item) % 2}" for user in range(4) for item in range(5)]
    (tmp_path / "export.txt").write_text("\n".join([*lines, "broken"]), encoding="utf-8")
    (tmp_path / "shop.yaml").write_text(
        "data: {name: shop, root: out}\nprepare: {source: shop, reviews: export.txt, k_core: 1}\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mllm_srec", "prepare", "--config", "shop.yaml"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "not three fields" in done.stdout
    assert PreparedDataset.open(tmp_path / "out/shop").interactions.height == 20


# --- a metric -----------------------------------------------------------------------------------------------------


def _share_on_top(blocks, top_k):
    """Another name for recall, so that its values are known."""
    return functional._recall(blocks, top_k)


def test_a_metric_is_measured_once_it_is_entered(monkeypatch):
    assert "metrics/functional.py" in step_files("Add a metric")
    monkeypatch.setitem(functional._METRICS, "share", _share_on_top)
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]])
    relevance = torch.tensor([[1, 0, 1], [0, 1, 0]])
    mask = torch.ones_like(relevance, dtype=torch.bool)
    metrics = EvaluationMetrics()
    metrics.add_lists(scores, relevance, mask)
    found = {name: float(value) for name, value in metrics.compute().items()}
    assert {"share@5", "share@10", "share@20", "share_worst@10"} <= set(found)
    assert found["share@10"] == found["recall@10"] == 1.0
    results = split_metrics({f"test/{name}": value for name, value in found.items()}, "test")
    assert results["test/share_worst@10"] == 1.0, "metrics.json leaves it out"
    of_users = functional.ranking_metrics(scores, relevance, mask, top_k=(1,))
    assert of_users["share@1"].tolist() == pytest.approx([0.5, 1 / 3])


def test_a_metric_is_shown_once_its_facts_are_entered(monkeypatch, capsys):
    assert "reports/tables/metric_words.py" in step_files("Add a metric")
    grid = GridSettings(rows=[GridRow("one")], metrics=["share@10"], significance=Significance(metrics=["share@10"]))
    with pytest.raises(ConfigError, match="share@10"):
        check_grid(grid)
    fact = metric_words.Metric("share@K", "how much of it", higher_is_better=True, per_user=True, headline=True)
    monkeypatch.setattr(metric_words, "METRICS", (*metric_words.METRICS, fact))
    check_grid(grid)
    assert metric_words.higher_is_better("share@10")
    print_results("a title", {"test/share@10": 0.5}, "test", {"chance": {"share@10": 0.25}}, [])
    assert re.search(r"share@10 +0\.5000 +0\.2500", capsys.readouterr().out)


# --- a summary stage ----------------------------------------------------------------------------------------------

QUESTION = "Which mood does this item suit?"
DRAWN = StageSettings(
    quantization="none", generation=GenerationSettings(max_new_tokens=4, sample=True, temperature=1.0, top_p=1.0)
)


@dataclass(frozen=True)
class WithMood(SummarySettings):
    """Settings with one more stage."""

    mood: StageSettings = DRAWN


@pytest.fixture
def with_mood(monkeypatch):
    """A stage `mood` that reads image summaries and texts, entered where the recipe says."""
    stages = ("image", "item", "mood", "preference")
    mood = replace(PARTS["item"], stage="mood", prompt=QUESTION)
    after = PARTS["preference"]
    monkeypatch.delitem(PARTS, "preference")  # and entered again behind it: the table is in order of dependence
    monkeypatch.setitem(PARTS, "mood", mood)
    monkeypatch.setitem(PARTS, "preference", after)
    monkeypatch.setattr(run, "STAGES", stages)
    return stages


@pytest.mark.slow
def test_a_summary_stage_is_added_as_the_recipe_says(with_mood, shop, tiny_backbone, tmp_path):
    named = set(spans(RECIPES["Add a summary stage"]))
    assert {"Stage", "PARTS", "STAGE_PROMPTS", "item_prompt", "SummarySettings"} <= named
    folder = shutil.copytree(shop.folder, tmp_path / "shop")
    settings = WithMood(window=2, step=1, image=DRAWN, item=DRAWN, preference=DRAWN)

    def plan(settings):
        small = PictureSettings(max_pixels=4 * 28 * 28)
        return SummaryPlan(PreparedDataset.open(folder), settings, PromptSettings(), small, str(tiny_backbone), None)

    def write(settings):
        trainer = run.summary_trainer(accelerator="cpu", devices=1, enable_progress_bar=False)
        run.Summarizer(plan(settings), trainer).run(with_mood)

    write(settings)
    items = pl.read_parquet(folder / "items.parquet")
    moods = pd.read_parquet(folder / "summaries/mood/summaries.parquet")
    assert moods["item_id"].tolist() == items["item_id"].to_list()
    assert (folder / "summaries/mood/quality.json").is_file()
    row = items.row(0, named=True)
    prompt = SummaryInputs(plan(settings)).item_prompt(plan(settings).plan("mood"), row)
    assert QUESTION in str(prompt.messages)
    assert row["title"] in str(prompt.messages)

    changed = replace(settings, mood=replace(DRAWN, prompt="Which weather does this item suit?"))
    assert run.missing_stages(plan(settings)) == []
    assert run.missing_stages(plan(changed)) == ["mood", "preference"], "this stage and those after it, no more"


def test_yaml_and_the_command_know_every_stage():
    parser = full_parser("summarize", "")
    add_flags(parser)
    assert {f"summaries.{stage}.backbone" for stage in STAGES} <= set(known_names(parser))
    assert [parser.parse_args([f"--stage={stage}"]).stage for stage in STAGES] == list(STAGES)
