"""Which rows are kept: the first of each pair of user and item, in the k-core; and what the tables look like."""

from __future__ import annotations

from tests.data.no_leak.oracle import TABLES, Prepared, kept_rows


def assert_kept(data: Prepared) -> None:
    columns = ["user_id", "item_id", "rating", "timestamp", "order"]
    expected = kept_rows(data.raw, data.settings.k_core)[columns].sort_values("order")
    got = data.interactions[columns].sort_values("order")
    assert got.astype(object).values.tolist() == expected.astype(object).values.tolist()
    assert sorted(data.items["item_id"]) == sorted(set(expected["item_id"]))
    n_repeats = int(data.raw.duplicated(["user_id", "item_id"]).sum())
    counted = [n for reasons in data.report.counts.values() for reason, n in reasons.items() if "repeat" in reason]
    assert sum(counted) == n_repeats


def test_rows_are_the_first_of_each_pair_in_the_core(data):
    assert_kept(data)


def test_rows_of_the_variant(variant):
    assert_kept(variant)
    assert len(variant.interactions) > len(kept_rows(variant.raw, 5))


def test_columns_and_types(data):
    columns = {
        "items": ["item_id", "title", "brand", "categories", "description", "price", "image", "image_urls"],
        "interactions": ["user_id", "item_id", "rating", "timestamp", "order", "review", "split"],
        "groups": ["group_id", "purpose", "user_id", "split", "timestamp", "order", "history", "disliked"],
        "samples": ["sample_id", "group_id", "user_id", "item_id", "label", "kind", "split"],
        "candidates": ["group_id", "user_id", "item_id", "label", "kind", "position", "split"],
    }
    assert {name: list(table.columns) for name, table in data.tables.items()} == columns
    for table, name, kind in [("interactions", "timestamp", "int64"), ("interactions", "order", "int64"),
                              ("groups", "group_id", "int64"), ("groups", "timestamp", "int64"),
                              ("samples", "sample_id", "int64"), ("samples", "label", "int8")]:  # fmt: skip
        assert str(data.tables[table][name].dtype) == kind, (table, name)
    assert data.groups["group_id"].is_unique
    assert data.samples["sample_id"].is_unique
    for table in TABLES:
        nullable = ["brand", "price", "image"]
        assert not data.tables[table].drop(columns=nullable, errors="ignore").isna().any().any()
    assert {split: set(data.tables[split]["split"]) for split in ("interactions", "groups", "samples")} == {
        name: {"train", "val", "test"} for name in ("interactions", "groups", "samples")
    }
    assert set(data.candidates["split"]) == {"val", "test"}
