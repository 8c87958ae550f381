from __future__ import annotations

import math

import pytest

from mllm_srec.data.raw.values import (
    clean_text,
    clean_texts,
    is_page_code,
    parse_id,
    parse_number,
    parse_price,
    parse_time,
    picture_urls,
)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (" Serendipity 3\n\t $100 ", "Serendipity 3 $100"),
        ("Rock &amp; Roll &quot;Live&quot; Don&#39;t", 'Rock & Roll "Live" Don\'t'),
        ("Soul/R&amp;amp;B", "Soul/R&B"),
        ("R&B; great &amp", "R&B; great &"),
        ('<span class="a-size-medium">Card</span>', "Card"),
        ("one<br/>two<BR>three", "one two three"),
        ("&lt;b&gt;Bold&lt;/b&gt; text", "Bold text"),
        ('<script type="x">var a = "<b>";</script>Card<style>.a{b:c;}</style>', "Card"),
        ("Card <script>var a", "Card"),
        ("Card <!-- a > b --> two", "Card two"),
        ('cut off <div class="a-section', "cut off"),
        ("I <3 you, a < b > c, <Live>, <unplugged>", "I <3 you, a < b > c, <Live>, <unplugged>"),
        ("nbsp\u00a0here\u3000too", "nbsp here too"),
        ("half \ud83d pair", "half ? pair"),
        ("", ""),
        (None, ""),
        (["a"], ""),
        (True, ""),
        (12, "12"),
    ],
)
def test_clean_text(raw, clean):
    assert clean_text(raw) == clean


def test_clean_texts_flattens_in_order_without_repeats_and_empties():
    assert clean_texts([["A &amp; B", " "], "C", ["A & B", ["D", None]]]) == ["A & B", "C", "D"]
    assert clean_texts("one") == ["one"]
    assert clean_texts(None) == []


def test_page_code():
    assert is_page_code("var aPageStart = (new Date()).getTime(); var ue_t0=window.ue_t0||+new Date();")
    assert is_page_code(".a-box-inner{background-color: #fff; color: red}")
    assert not is_page_code("Function Keys (Various Artists) {Deluxe} var. 3 = best; new")


@pytest.mark.parametrize(
    ("raw", "price", "odd"),
    [
        ("$1,250.00", 1250.0, False),
        ("$9.49", 9.49, False),
        (9.49, 9.49, False),
        (0, 0.0, False),
        ("31.99", 31.99, False),
        ("US $ 5", 5.0, False),
        ("$.99", 0.99, False),
        ("None", None, False),
        ("", None, False),
        ("  ", None, False),
        (None, None, False),
        (math.nan, None, False),
        ("$5 - $10", None, True),
        ("from $5", None, True),
        ("12,99", None, True),
        ("1,2345", None, True),
        (-1.0, None, True),
        (True, None, True),
        (".a-box{color:red}", None, True),
        ([1.0], None, True),
    ],
)
def test_parse_price(raw, price, odd):
    assert parse_price(raw) == (price, odd)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("0205616461", "0205616461"),
        (" B01 ", "B01"),
        (7, "7"),
        ("a/../b.c", "a/../b.c"),
        ("", None),
        ("  ", None),
        (None, None),
        (True, None),
        (1.5, None),
        (["B01"], None),
    ],
)
def test_parse_id(raw, expected):
    assert parse_id(raw) == expected


@pytest.mark.parametrize(
    "raw", [None, "", "five", True, [5], {}, math.nan, math.inf, "nan", "-inf", 10**400, "9" * 5000]
)
def test_what_is_no_number(raw):
    assert parse_number(raw) is None
    assert parse_time(raw, 1) is None


@pytest.mark.parametrize(
    ("raw", "unit", "expected"),
    [
        (1529193600, 1000, 1529193600000),
        ("1529193600", 1000, 1529193600000),
        (1588687728923, 1, 1588687728923),
        (1588687728.923, 1000, 1588687728923),
        (-86400, 1000, -86400000),
        (1588687728923, 1000, None),  # milliseconds read as seconds: the year 52313
        (4102444800, 1000, 4102444800000),  # 2100-01-01
    ],
)
def test_parse_time(raw, unit, expected):
    assert parse_time(raw, unit) == expected


URL = "https://images.example/I/"


@pytest.mark.parametrize(
    ("raw", "urls"),
    [
        (URL + "51L%2BzYCQWSL._SX300_.jpg", [URL + "51L%2BzYCQWSL._SX300_.jpg"]),
        ([URL + "a.jpg", URL + "b.jpg", URL + "a.jpg"], [URL + "a.jpg", URL + "b.jpg"]),
        (URL + "x-site/icons/no-img-lg._V192198674_.gif", []),
        ([URL + "nav2/dp/no-image-avail-tny.gif", URL + "a.gif"], [URL + "a.gif"]),
        ("//images.example/a.jpg", ["https://images.example/a.jpg"]),
        (["file:///etc/passwd", "a.jpg", 3, None, ""], []),
        (None, []),
        ("", []),
        ([], []),
        (
            [
                {"thumb": URL + "t1", "large": URL + "l1", "variant": "PT01", "hi_res": URL + "h1"},
                {"thumb": URL + "t2", "large": URL + "l2", "variant": "MAIN", "hi_res": None},
                {"thumb": URL + "t3", "variant": "PT02"},
            ],
            [URL + "l2", URL + "h1", URL + "t3"],
        ),
        (
            {
                "hi_res": [None, URL + "h2"],
                "large": [URL + "l1", URL + "l2"],
                "thumb": [URL + "t1", URL + "t2", URL + "t3"],
                "variant": ["MAIN", "PT01", "PT02"],
            },
            [URL + "l1", URL + "h2", URL + "t3"],
        ),
        ({"hi_res": [], "large": [], "thumb": [], "variant": []}, []),
        ({"hi_res": None}, []),
    ],
)
def test_picture_urls(raw, urls):
    assert picture_urls(raw) == urls
