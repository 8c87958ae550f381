import polars as pl
import pytest

from mllm_srec.files.hashing import table_hash

FROZEN = "6ded47afa84fd5c973b141161b127215f13b20c8c567092760a42b86a5029b83"
BASE = {"a": ["x", "yz"], "b": [1, 2], "c": [[], ["p", "q"]], "d": [0.5, None]}


def test_the_hash_is_fixed_for_all_time():
    # a change here means that published candidate hashes no longer match
    assert table_hash(pl.DataFrame({"a": ["x", None], "n": [1, 2]})) == FROZEN


def test_equal_tables_have_equal_hashes_whatever_their_width_or_chunks():
    one = pl.DataFrame(BASE)
    other = pl.concat([one[:1], one[1:]]).with_columns(pl.col("b").cast(pl.Int8))
    assert table_hash(one) == table_hash(other)


@pytest.mark.parametrize(
    "change",
    [
        {"a": ["xy", "z"]},
        {"a": ["x", None]},
        {"a": ["x", ""]},
        {"b": [2, 1]},
        {"b": ["1", "2"]},
        {"c": [["p"], ["q"]]},
        {"c": [["p", "q"], []]},
        {"c": [None, ["p", "q"]]},
        {"d": [0.5, 0.0]},
        {"d": [None, 0.5]},
    ],
)
def test_every_change_changes_the_hash(change):
    assert table_hash(pl.DataFrame(BASE | change)) != table_hash(pl.DataFrame(BASE))


def test_names_and_order_of_rows_count():
    frame = pl.DataFrame(BASE)
    assert len({table_hash(frame), table_hash(frame.rename({"a": "e"})), table_hash(frame.reverse())}) == 3


def test_a_type_without_a_rule_is_refused():
    with pytest.raises(TypeError, match="column 'x': cannot hash type Binary"):
        table_hash(pl.DataFrame({"x": [b"1"]}))
