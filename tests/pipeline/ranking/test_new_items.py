"""Fields of new items are checked on entry and cleaned like raw files."""

import json

import pytest
from PIL import Image

from mllm_srec.pipeline.ranking import new_items
from mllm_srec.pipeline.ranking.new_items import NewItem, read_new_items
from mllm_srec.types import DataError


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "mug.png")
    return tmp_path / "mug.png"


def test_fields_of_the_items_table(picture):
    item = NewItem(" A &amp; <b>B</b>\n mug", "Acme ", ["Home", "Home", "Mugs"], "Half \ud800 a letter", picture)
    assert item.row("x", 10_000) == {
        "item_id": "x", "title": "A & B mug", "brand": "Acme", "categories": ["Home", "Mugs"],
        "description": "Half ? a letter", "price": None, "image": str(picture), "image_urls": [],
    }  # fmt: skip
    bare = NewItem("mug").row("y", 10_000)
    assert (bare["brand"], bare["categories"], bare["description"], bare["image"]) == (None, [], "", None)


def test_equal_items_are_one():
    assert len({NewItem("a", categories=["b"]), NewItem("a", categories=("b",))}) == 1


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"title": 7}, r"title=7 of a new item: is not a text"),
        ({"title": "a", "brand": ["b"]}, r"brand=\['b'\] of a new item: is not a text"),
        ({"title": "a", "categories": "Mugs"}, r"categories='Mugs' of a new item: is not a list of texts"),
        ({"title": "a", "categories": [1]}, r"categories=\[1\] of a new item"),
        ({"title": "a", "image": 3}, r"image=3, item_id=None"),
        ({"title": "a", "item_id": ""}, r"item_id='' of a new item: is empty"),
        ({}, "neither title nor picture"),
        ({"title": " <br> "}, "neither title nor picture"),
    ],
)
def test_values_that_would_end_as_nonsense(fields, match):
    with pytest.raises(DataError, match=match):
        NewItem(**fields)


def test_a_picture_is_checked_before_anything_is_made_of_it(picture):
    with pytest.raises(
        DataError, match=r"cannot be used \(more pixels than .* 40 x 30\); give a file in .* jpg, .* bmp"
    ):
        NewItem("mug", image=picture).row("x", 1199)
    assert NewItem(image=picture).row("x", 1200)["title"] == ""


def test_the_command_line_takes_objects_and_files(tmp_path):
    lines = [{"title": "a", "image": "pictures/a.png"}, {"title": "b", "brand": None, "categories": ["c"]}]
    (tmp_path / "new.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    found = read_new_items(['{"title": "mug", "image": "mug.png", "item_id": "m"}', str(tmp_path / "new.jsonl")])
    assert found == [
        NewItem("mug", image="mug.png", item_id="m"),
        NewItem("a", image=tmp_path / "pictures/a.png"),  # relative to the file
        NewItem("b", categories=["c"]),
    ]


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ('{"title": "a"', r"--new_item: '\{\"title\": \"a\"' is not valid JSON"),
        ('{"titel": "a"}', r"unknown field 'titel'; did you mean 'title'\?"),
        ('{"x": "a"}', r"unknown field 'x'; accepted are title, brand, categories"),
        ('{"title": 3}', r"--new_item: title=3 of a new item: is not a text"),
        ('{"title": "a", "categories": 3}', r"--new_item: categories=3 of a new item: is not a list of texts"),
        ("nothing.jsonl", r"'nothing.jsonl': is neither a JSON object nor a readable file"),
    ],
)
def test_wrong_values(value, match):
    with pytest.raises(DataError, match=match):
        read_new_items([value])


def test_any_path_is_answered_in_a_sentence(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text(" \n\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, match in [
        (tmp_path, "Is a directory"), (tmp_path / "missing", "No such file"), ("", "Is a directory"),
        (tmp_path / "empty", "holds no item"), (tmp_path / "blank", "holds no item"), ("/dev/zero", "it is a device"),
        (tmp_path / "binary", "neither a JSON object nor a readable file"), ("a\0b", "null byte"),
        ("x" * 5000, "too long"), (tmp_path / "loop", "symbolic links"), ("~nobody-here/x", "home"),
        (tmp_path / "empty/x", "Not a directory"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=match) as raised:
            read_new_items([str(path)])
        assert str(raised.value).startswith("new_item='")
    deep = '{"title": ' + "[" * 200_000
    with pytest.raises(DataError, match="is not valid JSON"):
        read_new_items([deep])


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(new_items, "LARGEST_FILE", 20)
    (tmp_path / "large").write_text('{"title": "a red mug"}\n')
    with pytest.raises(DataError, match=r"large': is neither .* \(it has more than 0 MB\)"):
        read_new_items([str(tmp_path / "large")])


@pytest.mark.parametrize("path", ["a\0b.png", "/dev/zero", "~nobody-here/mug.png", ".", "x" * 5000])
def test_any_picture_path_is_answered_in_a_sentence(path):
    with pytest.raises(DataError, match=r"image=.* of a new item: cannot be used"):
        NewItem("mug", image=path).row("x", 10_000)


def test_a_path_in_the_home_folder(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "new.jsonl").write_text('{"image": "~/mug.png"}\n')
    (item,) = read_new_items(["~/new.jsonl"])
    assert item.row("x", 10_000)["image"] == str(picture)
    assert NewItem(image="~/mug.png").row("x", 10_000)["image"] == str(picture)


def test_a_wrong_line_of_a_file_is_named(tmp_path):
    (tmp_path / "new.jsonl").write_text('{"title": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"new.jsonl, line 2: '\[1\]' is not a JSON object"):
        read_new_items([str(tmp_path / "new.jsonl")])
