"""Which ratings are likes: every table and every reader of a prepared data set follows the rule in its manifest."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.loading.candidate_lists import RankLists
from mllm_srec.data.loading.item_batches import Numbering, TrainExamples
from mllm_srec.data.manifest import read_manifest
from mllm_srec.data.prepare import NOBODY_RANKED, prepare_dataset
from mllm_srec.data.ratings import RatingRule, is_disliked, is_liked, is_rated
from mllm_srec.data.settings import CandidateSettings, ColumnMapping, DemoSettings, PrepareSettings
from mllm_srec.data.stored_prompts.contexts import ContextTexts
from mllm_srec.data.tables.popularity import item_popularity
from mllm_srec.files.atomic import write_json
from mllm_srec.files.hashing import table_hash
from mllm_srec.pipeline.model_kinds import train_data
from mllm_srec.pipeline.ranking.people import people_now
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.preference_chains import build_chains
from mllm_srec.types import ConfigError, DataError

SPLITS = ["random", "leave_one_out", "global_time"]
CANDIDATES = CandidateSettings(n_negatives=6)


def rows_of(seed, n_users=25, n_items=40, n_rows=12):
    """Rows of (user, item, rating from 1 to 5, day)."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user:02}", f"i{item:02}", int(rng.integers(1, 6)), 86_400 * int(rng.integers(2000, 2100)))
        for user in range(n_users)
        for item in rng.choice(n_items, n_rows, replace=False)
    ]


def prepared(folder, rows, **settings):
    """A data set of the rows, and its report."""
    folder.mkdir(parents=True)
    lines = [",".join(map(str, row)) for row in rows]
    (folder / "raw.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *lines]))
    settings = PrepareSettings(source="tables", reviews=str(folder / "raw.csv"), **{"k_core": 1, **settings})
    report = prepare_dataset(folder / "set", settings, CANDIDATES)
    return PreparedDataset.open(folder / "set"), report


def read_by_all(data):
    """What every reader of likes makes of a data set."""
    numbering = Numbering(data)
    examples = TrainExamples.of(data.interactions, numbering, "sequences", 50)
    users = sorted(set(data.interactions["user_id"]))
    people = people_now(data.interactions, users, None, 50)
    lists = RankLists(data, "test", data.groups.filter(purpose="rank", split="test")["group_id"].to_numpy())
    contexts = ContextTexts(data.interactions, None, PromptSettings(wording="tallrec"))
    return {
        **{name: table_hash(getattr(data, name)) for name in ("groups", "samples", "candidates")},
        "splits": data.interactions.select("user_id", "item_id", "split").rows(),
        "popularity": item_popularity(data.interactions, data.items).tolist(),
        "baselines": train_data(data, numbering).fingerprint,
        "sequences": (examples.user.tolist(), examples.begin.tolist(), examples.items.tolist()),
        "chains": build_chains(data.interactions),
        "people": [(p.history, p.seen, p.held_out) for p in people],
        "full": table_hash(pl.DataFrame({"i": lists.full().item_index, "k": lists.full().kind})),
        "bodies": [contexts.body(group) for group in data.groups.iter_rows(named=True)],
    }


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("scale", "shift"), [(2, 0), (20, 0), (1, -4), (0.2, 0)], ids=["10", "100", "below 0", "1"])
def test_another_scale_gives_the_same_data_set(tmp_path, split, scale, shift):
    """Ratings of 1 to 5 on another scale, with the threshold moved alike, differ in the ratings and in nothing else."""
    rows = rows_of(3)
    usual, _ = prepared(tmp_path / "usual", rows, split=split)
    moved_rows = [(user, item, rating * scale + shift, time) for user, item, rating, time in rows]
    moved, report = prepared(tmp_path / "moved", moved_rows, split=split, liked_from=4 * scale + shift)
    assert read_by_all(moved) == read_by_all(usual)
    assert moved.candidates_hash == usual.candidates_hash
    assert moved.manifest["prepare"]["liked_from"] == 4 * scale + shift
    assert report.facts["ratings"] == f"{scale + shift:g} to {5 * scale + shift:g}"
    assert report.facts["likes"] == sum(row[2] >= 4 for row in rows)


def test_a_lower_threshold_makes_more_likes_everywhere(tmp_path):
    rows = rows_of(4)
    strict, _ = prepared(tmp_path / "four", rows)
    mild, _ = prepared(tmp_path / "three", rows, liked_from=3)
    for name, one in read_by_all(strict).items():
        assert one != read_by_all(mild)[name], name
    assert mild.samples.filter(kind="liked").height == sum(row[2] >= 3 for row in rows)


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_not_rated_is_known_and_nothing_else(tmp_path, split):
    """Rows with a rating that means "none" change no context and no target, and their items are no negatives."""
    rows = rows_of(5)
    rng = np.random.default_rng(0)
    taken = {row[:2] for row in rows}
    seen = [(f"u{u:02}", f"i{i:02}", v, 86_400 * int(rng.integers(2000, 2100))) for u in range(25) for i, v in
            zip(rng.choice(40, 5, replace=False), rng.choice([0, -1, 99], 5), strict=True)]  # fmt: skip
    seen = [row for row in seen if row[:2] not in taken]
    plain, _ = prepared(tmp_path / "plain", rows, split=split)
    data, report = prepared(tmp_path / "seen", rows + seen, split=split, no_rating=(0, -1, 99))
    assert len(seen) > 40
    assert report.counts["ratings"] == {"not rated (prepare.no_rating): neither like nor dislike": len(seen)}
    assert report.facts["ratings"] == "1 to 5"
    assert data.manifest["prepare"]["no_rating"] == [-1, 0, 99]
    assert data.groups.equals(plain.groups)
    chosen = pl.col("kind") != "sampled"
    assert data.samples.filter(chosen).drop("sample_id").equals(plain.samples.filter(chosen).drop("sample_id"))
    assert data.candidates.filter(chosen).equals(plain.candidates.filter(chosen))
    known = {row[:2] for row in seen}
    assert {tuple(row) for row in data.interactions.filter(~is_rated()).select("user_id", "item_id").rows()} == known
    for table in (data.samples, data.candidates):
        assert not known & set(table.filter(~chosen).select("user_id", "item_id").rows())
    for person in people_now(data.interactions, ["u00", "u01"], None, 50):
        assert {item for user, item in known if user == person.user_id} <= person.seen
        assert not {(person.user_id, item) for item in (*person.history, *person.held_out)} & known
    expected = {name: value for name, value in read_by_all(plain).items() if name in ("popularity", "chains", "bodies")}
    assert {name: read_by_all(data)[name] for name in expected} == expected
    lists = RankLists(data, "test", data.groups.filter(purpose="rank", split="test")["group_id"].to_numpy())
    full = lists.catalogue()
    owner = lists.lists["user_id"].to_list()
    shown = {(owner[row], data.items["item_id"][int(item)]) for row, item in zip(*np.nonzero(full.mask()), strict=True)}
    assert not shown & known


def test_a_rated_repeat_stays_where_the_first_one_is_not_rated(tmp_path):
    rows = [row for row in rows_of(6) if row[:2] != ("u00", "i00")]
    rows += [("u00", "i00", 0, 1000), ("u00", "i00", 5, 90_000_000), ("u00", "i00", 1, 95_000_000)]
    data, _ = prepared(tmp_path / "set", rows, no_rating=(0,))
    kept = data.interactions.filter(user_id="u00", item_id="i00").row(0, named=True)
    assert (kept["rating"], kept["liked"]) == (5, True)


def test_the_three_answers():
    table = RatingRule(3.5, (0,)).mark(pl.DataFrame({"rating": [5.0, 3.5, 3.4, 0.0, -1.0]}))
    assert table["liked"].to_list() == [True, True, False, None, False]
    marks = table.select(liked=is_liked(), disliked=is_disliked(), rated=is_rated())
    assert marks.rows() == [
        (True, False, True),
        (True, False, True),
        (False, True, True),
        (False,) * 3,
        (False, True, True),
    ]


@pytest.mark.parametrize(
    ("ratings", "settings", "words"),
    [
        ([1], {}, ["liked_from=4: no rating reaches it", "ratings found: 1 to 1", "columns.rating to null"]),
        ([0, 1], {}, ["liked_from=4", "ratings found: 0 to 1"]),
        ([1, 2, 3], {"liked_from": 5.0}, ["liked_from=5", "1 to 3"]),
        ([0], {"no_rating": (0.0,)}, ["prepare.no_rating=[0.0]", "every rating that occurs"]),
    ],
)
def test_where_nothing_is_liked_the_error_names_the_way_out(tmp_path, ratings, settings, words):
    rows = [(user, item, ratings[n % len(ratings)], time) for n, (user, item, _, time) in enumerate(rows_of(1))]
    with pytest.raises(DataError) as caught:
        prepared(tmp_path / "set", rows, **settings)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "set/set").exists()


def test_implicit_ones_are_likes_by_either_way_out(tmp_path):
    rows = [(user, item, 1, time) for user, item, _, time in rows_of(1)]
    by_threshold, _ = prepared(tmp_path / "one", rows, liked_from=1)
    by_column, _ = prepared(tmp_path / "null", rows, columns=ColumnMapping(rating=None))
    assert read_by_all(by_threshold) == read_by_all(by_column)


@pytest.mark.parametrize(
    ("ratings", "pointed_out"),
    [
        ([1, 2, 3, 4, 5], {}),
        ([0, 4, 8, 10], {"below 1": ("0 to 0", 0), "above 5": ("8 to 10", 8)}),
        ([-1, 10], {"below 1": ("-1 to -1", -1), "above 5": ("10 to 10", 10)}),
        ([7, 55, 99], {"above 5": ("7 to 99", 7)}),
    ],
)
def test_ratings_outside_the_usual_scale_are_pointed_out(tmp_path, ratings, pointed_out):
    rows = [(user, item, ratings[n % len(ratings)], time) for n, (user, item, _, time) in enumerate(rows_of(1))]
    _, report = prepared(tmp_path / "set", rows)
    found = report.counts.get("ratings", {})
    assert [reason.partition(":")[0] for reason in found] == list(pointed_out)
    for reason, (word, least) in zip(found, pointed_out.values(), strict=True):
        side = [row for row in rows if (row[2] < 1 if least < 1 else row[2] > 5)]
        assert found[reason] == len(side)
        assert report.examples["ratings"][reason] == [word]
    assert report.facts["ratings"] == f"{min(ratings)} to {max(ratings)}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"liked_from": float("nan")}, "prepare.liked_from=nan"),
        ({"no_rating": (0.0, float("inf"))}, "prepare.no_rating"),
        (
            {"liked_from": 1.0, "columns": ColumnMapping(rating=None)},
            "has no effect where prepare.columns.rating is null",
        ),
        ({"liked_from": 3.0, "source": "demo"}, "the demo shop"),
        ({"no_rating": (1.0,), "source": "demo"}, "the demo shop"),
    ],
)
def test_a_rule_that_cannot_be_applied_is_refused(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        prepare_dataset(tmp_path / "set", PrepareSettings(**{"source": "tables", **settings}), CANDIDATES)


@pytest.mark.parametrize(
    ("split", "needed"), [("random", "2 likes"), ("leave_one_out", "3 likes"), ("global_time", "tenth")]
)
def test_a_split_that_holds_nothing_out_says_why(tmp_path, split, needed):
    rows = [(f"u{n}", "i0", 5, 100) for n in range(4)] + [(f"u{n}", "i1", 1, 50) for n in range(4)]
    data, report = prepared(tmp_path / "set", rows, split=split)
    (sentence,) = report.counts[NOBODY_RANKED]
    assert sentence.startswith(f"prepare.split='{split}': holds out no like for test")
    assert needed in sentence
    assert "4 likes of 4 users, at most 1 of one" in sentence
    assert data.candidates.filter(split="test").is_empty()


def test_a_split_that_holds_something_out_has_no_such_sentence(tmp_path):
    assert NOBODY_RANKED not in prepared(tmp_path / "set", rows_of(1))[1].counts


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_another_rule_is_another_data_set(tmp_path):
    data, _ = prepared(tmp_path / "set", rows_of(2))
    settings = PrepareSettings(source="tables", reviews=str(tmp_path / "set/raw.csv"), k_core=1)
    assert prepare_dataset(data.folder, settings, CANDIDATES).facts["already prepared"]
    assert prepare_dataset(data.folder, replace(settings, liked_from=4), CANDIDATES).facts["already prepared"]
    with pytest.raises(ConfigError, match=r"prepare.liked_from: prepared with 4.0, now 3") as caught:
        prepare_dataset(data.folder, replace(settings, liked_from=3, no_rating=(0,)), CANDIDATES)
    assert "prepare.no_rating: prepared with [], now [0]" in str(caught.value)


def test_a_data_set_of_an_older_version_means_four(tmp_path):
    """Its manifest has neither setting: it is read as before, and is the data set of the defaults."""
    data, _ = prepared(tmp_path / "set", rows_of(2))
    manifest = read_manifest(data.folder)
    del manifest["prepare"]["liked_from"], manifest["prepare"]["no_rating"]
    write_json(manifest, data.folder / "manifest.json")
    old = PreparedDataset.open(data.folder)
    assert old.interactions["liked"].to_list() == [rating >= 4 for rating in old.interactions["rating"]]
    settings = PrepareSettings(source="tables", reviews=str(tmp_path / "set/raw.csv"), k_core=1)
    assert prepare_dataset(data.folder, settings, CANDIDATES).facts["already prepared"]
    with pytest.raises(ConfigError, match=r"prepare.liked_from: prepared with 4.0, now 5"):
        prepare_dataset(data.folder, replace(settings, liked_from=5), CANDIDATES)


def test_the_demo_shop_is_as_it_was(tmp_path):
    settings = PrepareSettings(
        source="demo", demo=DemoSettings(n_users=20, n_items=40, n_interactions=10, image_size=28)
    )
    prepare_dataset(tmp_path / "demo", settings, CandidateSettings())
    data = PreparedDataset.open(tmp_path / "demo")
    assert data.manifest["prepare"]["liked_from"] == 4
    assert data.candidates_hash == "6b0fc2e12f9ee20b8f4aacd1948b907e1e6b40b6c121bd54c96954a62a7675a4"
