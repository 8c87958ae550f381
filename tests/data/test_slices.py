"""The slices of real data: small, described, and cut from the whole sets byte for byte."""

import gzip
import re

import pytest

from tests.conftest import REAL_DATA, SLICES
from tests.data.slices.cut import CUTS, cut_all

MAX_BYTES = 300_000


def content(folder):
    """Bytes of every file of the slices, by relative path; unpacked, since versions of zlib pack differently."""
    files = [path for name in CUTS for path in (folder / name).rglob("*") if path.is_file()]
    unpacked = {path: gzip.decompress(path.read_bytes()) for path in files if path.suffix == ".gz"}
    return {path.relative_to(folder).as_posix(): unpacked.get(path, path.read_bytes()) for path in files}


def test_slices_are_small():
    files = [path for path in SLICES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES


def test_the_readme_tells_source_and_terms_of_every_slice():
    text = (SLICES / "README.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert described == set(CUTS) == {path.name for path in SLICES.iterdir() if path.is_dir() and path.name[0] != "_"}
    terms = (SLICES / "movielens_posters_small/README.txt").read_text(encoding="utf-8")
    assert "may redistribute the data set, including transformations" in terms


def test_the_readme_counts_rightly():
    text = (SLICES / "README.md").read_text(encoding="utf-8")
    lines = {name: found.count(b"\n") for name, found in content(SLICES).items()}
    assert f"{lines['amazon2018_gift_cards/Gift_Cards_5.json.gz']} reviews of 67 people" in text
    assert f"metadata of {lines['amazon2018_gift_cards/meta_Gift_Cards.json.gz']} items; no pictures" in text
    assert f"the {lines['amazon2014_digital_music/reviews_Digital_Music_5.json.gz']} shortest reviews" in text
    assert f"metadata of {lines['amazon2014_digital_music/meta_Digital_Music.json.gz']} items" in text
    assert f"{lines['movielens_posters_small/ratings.csv'] - 1:,} ratings of 60 people" in text
    assert f"{lines['movielens_posters_small/movies.csv'] - 1} movies; no posters" in text


def test_no_name_of_a_person():
    assert not [name for name, found in content(SLICES).items() if b"reviewerName" in found]


@pytest.mark.slow
@pytest.mark.real_data
def test_cutting_again_gives_the_same_bytes(tmp_path):
    cut_all(REAL_DATA, tmp_path)
    assert content(tmp_path) == content(SLICES)


@pytest.mark.slow
@pytest.mark.real_data
def test_every_line_is_one_of_the_source():
    for name, found in content(SLICES).items():
        source = (REAL_DATA / name).read_bytes()
        if name.endswith(".gz"):
            source = gzip.decompress(source)
        lines = iter(source.splitlines(keepends=True))
        if name.endswith((".gz", ".csv", ".jsonl")):  # in the source's order, each once
            assert all(line in lines for line in found.splitlines(keepends=True)), name
        else:
            assert found == source, name
