"""A small grid of real rows, its page recomputed by an independent script, and looked at in a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import yaml
from PIL import Image

from mllm_srec.__main__ import main
from mllm_srec.reports.page.page import Section, TableBlock, render_page
from mllm_srec.reports.tables.paper_names import column_name, row_name
from mllm_srec.reports.tables.tables import Row, Table, TableCell
from tests.integration.ranking_by_hand import run_metrics
from tests.prepared_again import replace_table
from tests.reports.page.page_reader import PageReader

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
ROWS = ("random", "popularity", "item_knn")
METRICS = ["auc", "user_auc", *(f"{name}@{k}" for name in ("hr", "recall", "ndcg") for k in (5, 10))]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "Mug <script>alert(1)</script></style><img src=x onerror=alert(2)> | $x$ & \\input{y}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working folder in which a grid of three cheap rows and two seeds was run and reported."""
    root = tmp_path_factory.mktemp("report")
    grid = {
        "base": [str(CONFIGS / "demo.yaml")],
        "seeds": [0, 1],
        "set": {
            "data.name": "tiny", "data.root": str(root / "data"), "trainer.default_root_dir": str(root / "runs"),
            "prepare.k_core": 1, "prepare.demo": {"n_users": 24, "n_items": 40, "n_interactions": 10},
        },
        "rows": [{"label": row, "configs": [str(CONFIGS / f"baselines/{row}.yaml")]} for row in ROWS],
        "significance": {"base": "item_knn"},
    }  # fmt: skip
    (root / "tiny.yaml").write_text(yaml.safe_dump(grid))
    assert main(["grid", "--config", str(root / "tiny.yaml"), "--output", str(root / "results")]) == 0
    poison(root / "data/tiny")
    assert main(["report", str(root / "results"), "--output", str(root / "page")]) == 0
    return root


def poison(data):
    """Titles that try to become markup; candidates and scores stay as they are."""
    items = pl.read_parquet(data / "items.parquet")
    replace_table(data, "items", items.with_columns(title=pl.lit(HOSTILE)))


def cells(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "results/cells").glob("*.json"))]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_number_of_the_page_follows_from_the_predictions(folder):
    found = pd.DataFrame(
        [{"row": cell["row"], "seed": cell["seed"], **run_metrics(cell["run"])} for cell in cells(folder)]
    )
    means, spreads = (getattr(found.groupby("row")[METRICS], how)() for how in ("mean", "std"))
    page = PageReader((folder / "page/index.html").read_text(encoding="utf-8"))
    table = page.table("Results on tiny")
    n_checked = 0
    for row in ROWS:
        for metric in METRICS:
            number, spread = table[row_name(row)][column_name(metric)]
            # metrics.json holds float32; the page shows four digits
            assert float(number.split()[0]) == pytest.approx(means.loc[row, metric], abs=5.1e-5)
            assert float(spread.split()[1]) == pytest.approx(spreads.loc[row, metric], abs=5.1e-5)
            n_checked += 1
    assert n_checked == 24
    others = means.loc[["random", "popularity"]].max()
    for metric in METRICS:
        gain = 100 * (means.loc["item_knn", metric] / others[metric] - 1)
        assert float(table["ItemKNN over best other, %"][column_name(metric)][0]) == pytest.approx(gain, abs=0.01)
    chance = float(table["(chance)"]["AUC"][0])
    assert chance == 0.5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hostile_titles_of_real_results_are_only_shown(folder):
    page = PageReader((folder / "page/index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert HOSTILE in page.text
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def browse(page, folder, *options):
    """Open a page in a headless browser, and return what it says and its picture."""
    picture = folder / "page.png"
    picture.unlink(missing_ok=True)
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], Image.open(picture).convert("RGB")


def measured(page, folder, width, expression):
    """Evaluate an expression about the root of a page, `page`, in a window of a given width."""
    frame = folder / "frame.html"
    root = "const page = frame.contentDocument.documentElement"
    script = f"frame.onload = () => {{ {root}; document.title = {expression} }}"
    frame.write_text(
        f'<iframe id="frame" src="{page.as_uri()}" style="width:{width}px;height:800px;border:0"></iframe>'
        f"<script>{script}</script>"
    )
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-web-security",
        "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile-frame'}",
        "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<title>(.+?)</title>", done.stdout)
    assert found, done.stdout[:500]
    return found.group(1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed (Debian: apt-get install chromium)")
class TestInABrowser:
    """The page as people see it."""

    def test_it_opens_without_a_complaint(self, folder):
        console, picture = browse(folder / "page/index.html", folder, "--window-size=1280,2400")
        assert console == []
        assert picture.size == (1280, 2400)
        pixels = np.asarray(picture)
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100, "blank, or nearly so"
        inked = (np.abs(pixels.astype(int) - pixels[2, 2]).sum(axis=2) > 60).mean(axis=1)  # share of each line
        assert (inked > 0.005).mean() > 0.3, "most of it is empty"

    def test_it_is_dark_where_that_is_wanted(self, folder):
        dark = "--blink-settings=preferredColorScheme=0"
        _, light = browse(folder / "page/index.html", folder, "--window-size=1280,900")
        _, night = browse(folder / "page/index.html", folder, "--window-size=1280,900", dark)
        assert np.asarray(light).mean() > 200
        assert np.asarray(night).mean() < 80

    @pytest.mark.parametrize("width", [360, 1280])
    def test_nothing_is_wider_than_the_screen(self, folder, width):
        assert 0 < int(measured(folder / "page/index.html", folder, width, "page.scrollWidth")) <= width

    def test_a_table_that_is_wider_than_the_screen_shows_that_it_goes_on(self, tmp_path):
        columns = tuple(f"a long name {n}" for n in range(40))
        tables = [Table(names, (Row("a", tuple(TableCell(0.5) for _ in names)),)) for names in (columns, columns[:2])]
        blocks = tuple(TableBlock(f"t{n}", f"table {n}", table) for n, table in enumerate(tables))
        page = tmp_path / "wide.html"
        page.write_text(render_page("title", [Section("one", "one", "", False, False, (), blocks)], "made"))
        scrollers = "[...page.querySelectorAll('.scroll')]"
        assert measured(page, tmp_path, 1280, f"{scrollers}.map(s => s.scrollWidth > s.clientWidth)") == "true,false"
        # Shadows lie at the edges; what covers them moves with the table, so they show where columns are hidden.
        attached = f"{scrollers}.map(s => getComputedStyle(s).backgroundAttachment)[0]"
        assert measured(page, tmp_path, 1280, attached).replace(" ", "") == "local,local,scroll,scroll"

    def test_this_would_notice_a_complaint(self, tmp_path):
        page = tmp_path / "bad.html"
        page.write_text("<script>console.error('broken')</script>")
        console, picture = browse(page, tmp_path, "--window-size=640,480")
        assert any("broken" in line for line in console)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) < 100
