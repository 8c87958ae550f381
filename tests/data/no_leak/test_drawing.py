"""How negatives and users are drawn: uniformly, and from the seed alone."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mllm_srec.data.settings import CandidateSettings
from tests.data.no_leak.oracle import TABLES, assert_negatives, assert_uniform, prepare
from tests.data.no_leak.sources import CARDS, SOURCES, drawing


def test_pair_negatives_are_uniform_and_train_ones_ignore_what_is_held_out(data):
    catalogue = sorted(data.items["item_id"])
    rows = data.by_user()
    everything = {user: {item for _, item, _, _ in found} for user, found in rows.items()}
    trained = {user: {item for _, item, _, split in found if split == "train"} for user, found in rows.items()}
    sampled = data.samples[data.samples["kind"] == "sampled"]
    for is_train, part in sampled.groupby(sampled["split"] == "train"):
        taken = trained if is_train else everything
        drawn = Counter(part["item_id"])
        chances: dict[str, float] = dict.fromkeys(catalogue, 0.0)
        spreads = dict(chances)
        hits = expected = variance = 0.0
        for user, items in part.groupby("user_id")["item_id"]:
            free = set(catalogue) - taken[user]
            assert set(items) <= free
            p, n = 1 / len(free), len(items)
            for item in free:
                chances[item] += n * p
                spreads[item] += n * p * (1 - p)
            held = everything[user] - trained[user]
            share = len(held & free) * p
            hits += items.isin(held).sum()
            expected += n * share
            variance += n * share * (1 - share)
        assert_uniform(drawn, chances, spreads)
        if is_train:  # held-out items are negatives of train exactly as often as any other item
            assert expected > 0
            assert abs(hits - expected) < 4.5 * math.sqrt(variance), (hits, expected)
        else:
            assert hits == 0


def test_rank_negatives_are_uniform_in_every_part_of_the_list(data):
    catalogue = sorted(data.items["item_id"])
    owned = {user: {item for _, item, _, _ in rows} for user, rows in data.by_user().items()}
    sampled = data.candidates[data.candidates["kind"] == "sampled"]
    for first, last in ((1, 5), (6, 50)):
        part = sampled[sampled["position"].between(first, last)]
        chances: dict[str, float] = dict.fromkeys(catalogue, 0.0)
        spreads = dict(chances)
        for user, n in part.groupby(["user_id", "group_id"]).size().items():
            free = set(catalogue) - owned[user[0]]
            p = n / len(free)
            for item in free:
                chances[item] += p
                spreads[item] += p * (1 - p)
        assert_uniform(Counter(part["item_id"]), chances, spreads)


@pytest.mark.parametrize("name", CARDS)
def test_drawn_users_and_first_negatives(tmp_path, name):
    settings = replace(SOURCES[name], split="leave_one_out")
    everyone = prepare(tmp_path / "all", settings, drawing(name, seed=2))
    few = prepare(tmp_path / "few", settings, CandidateSettings(n_negatives=7, max_users=40, seed=2))
    ranks = few.groups[few.groups["purpose"] == "rank"]
    assert ranks.groupby("split")["user_id"].nunique().to_dict() == {"val": 40, "test": 40}
    assert len(ranks) == 80
    assert_negatives(few)
    assert set(ranks["user_id"]) < set(everyone.groups.loc[everyone.groups["purpose"] == "rank", "user_id"])
    by_place = ranks.loc[ranks["split"] == "test", "user_id"]
    users = sorted(set(everyone.interactions["user_id"]))
    places = [users.index(user) / len(users) for user in by_place]
    assert abs(np.mean(places) - 0.5) < 4.5 * math.sqrt(1 / 12 / 40)  # drawn from all of them, not the first


@pytest.mark.parametrize("name", CARDS)
def test_same_seed_same_tables_in_another_process_and_other_seeds_other_ones(tmp_path, name):
    settings = SOURCES[name]
    first = prepare(tmp_path / "first", settings, CandidateSettings())
    program = (
        "import sys; from pathlib import Path; from mllm_srec.data.prepare import prepare_dataset; "
        "from mllm_srec.data.settings import CandidateSettings, PrepareSettings; "
        "prepare_dataset(Path(sys.argv[1]), "
        "PrepareSettings('amazon2018', reviews=sys.argv[2], metadata=sys.argv[3]), CandidateSettings())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "again"), str(settings.reviews), str(settings.metadata)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "77", "POLARS_MAX_THREADS": "1"})
    for name in TABLES:
        pd.testing.assert_frame_equal(first.tables[name], pd.read_parquet(tmp_path / "again" / f"{name}.parquet"))

    split_seed = prepare(tmp_path / "split", replace(settings, seed=1), CandidateSettings())
    draw_seed = prepare(tmp_path / "draw", settings, CandidateSettings(seed=1))
    assert not split_seed.interactions["split"].equals(first.interactions["split"])
    assert draw_seed.interactions.equals(first.interactions)
    assert not draw_seed.candidates["item_id"].equals(first.candidates["item_id"])
    assert not draw_seed.samples["item_id"].equals(first.samples["item_id"])
