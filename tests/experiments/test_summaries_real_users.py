"""The script about summaries of real users: who is drawn, what is copied, and its number by hand."""

import gzip
import importlib
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("summaries_real_users")


@pytest.fixture
def reviews(tmp_path):
    """u0 to u4 like as many items as their number says, and one that they gave a single star at first."""
    rows = [(f"u{n}", item, 5.0, 20) for n in range(5) for item in range(n + 1)]
    rows += [(f"u{n}", 0, 1.0, 10) for n in range(5)]
    path = tmp_path / "reviews.json.gz"
    with gzip.open(path, "wt", encoding="utf-8") as out:
        for user, item, stars, time in rows:
            row = {
                "reviewerID": user,
                "asin": f"i{item}",
                "overall": stars,
                "unixReviewTime": time,
                "reviewText": "é\n",
            }
            out.write(json.dumps(row) + "\n")
    return path


def test_users_with_enough_likes_are_drawn(script, reviews):
    assert script.draw_users(reviews, 2, 3) == ["u3", "u4"]
    assert script.draw_users(reviews, 2, 1) == script.draw_users(reviews, 2, 1)
    with pytest.raises(SystemExit, match=r"only 2 users of .* liked 3 items"):
        script.draw_users(reviews, 3, 3)


def test_lines_are_copied_letter_by_letter(script, reviews, tmp_path):
    script.keep_users(reviews, ["u0", "u2"], tmp_path / "kept.json")
    with gzip.open(reviews, "rt", encoding="utf-8") as lines:
        expected = [line for line in lines if json.loads(line)["reviewerID"] in ("u0", "u2")]
    assert (tmp_path / "kept.json").read_text(encoding="utf-8").splitlines(keepends=True) == expected


def test_a_text_is_compared_with_the_titles_of_all_others(script):
    titles = ["Pizza Gift Card", "Shoe Gift Card", "Pizza Gift Card"]
    assert script.auc(["I like pizza.", "A shoe!", "Nothing."], titles) == pytest.approx((1.5 + 2 + 1) / 6, abs=1e-3)
    assert script.auc(["gift card"] * 3, titles) == 0.5
    assert script.auc(["Pizza"] * 2, ["", "Pizza"]) == 0.5
