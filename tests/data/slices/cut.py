"""Cut the slices of this folder out of the whole data sets; see README.md beside this file.

    python tests/data/slices/cut.py ../shared/data [TARGET]

Nothing is drawn: which lines are taken follows from their content alone, so every run gives the same slices. Lines keep
their order and every byte. `ROOT` holds the folders `amazon2018_gift_cards`, `amazon2014_digital_music`,
`amazon2023_raw_examples` and `movielens_posters_small`; `TARGET` is this folder unless given.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

N_CARDS, N_BUYERS = 50, 60
"""The buyers who wrote most about the most reviewed gift cards are taken: so many of each."""
N_VIEWERS, RATINGS_OF_A_VIEWER = 60, range(10, 26)
"""The first so many users of MovieLens with such a number of ratings are taken."""
N_SONGS = 40
"""Reviews of Digital Music: the shortest lines."""
N_OTHERS = 5
"""Metadata of items that no review of the slice names, of each kind."""

Line = tuple[bytes, dict[str, Any]]


def cut_gift_cards(source: Path, target: Path) -> None:
    """Amazon 2018: all reviews of the chosen buyers, metadata of what they reviewed and of some more; no pictures.

    Chosen are the buyers with most reviews of the most reviewed cards, everybody who reviewed a card twice, and
    everybody who left a review without text. Their other reviews come along: the k-core has to drop most of those.
    """
    lines = read_lines(source / "Gift_Cards_5.json.gz", json.loads)
    cards = most(Counter(review["asin"] for _, review in lines), N_CARDS)
    buyers = most(Counter(review["reviewerID"] for _, review in lines if review["asin"] in cards), N_BUYERS)
    pairs = Counter((review["reviewerID"], review["asin"]) for _, review in lines)
    buyers |= {buyer for (buyer, _), n in pairs.items() if n > 1}
    buyers |= {review["reviewerID"] for _, review in lines if "reviewText" not in review}
    reviews = [line for line in lines if line[1]["reviewerID"] in buyers]
    write_gzip(target / "Gift_Cards_5.json.gz", reviews)

    reviewed = {review["asin"] for _, review in reviews}
    metadata = read_lines(source / "meta_Gift_Cards.json.gz", json.loads)
    others = [meta["asin"] for _, meta in metadata if meta["price"] and meta["price"][0] != "$"]
    others += [meta["asin"] for _, meta in metadata if meta["price"] and meta["asin"] not in reviewed][:N_OTHERS]
    others += [meta["asin"] for _, meta in metadata if "<" in "".join(meta["description"])][:N_OTHERS]
    write_gzip(
        target / "meta_Gift_Cards.json.gz", [line for line in metadata if line[1]["asin"] in reviewed | {*others}]
    )


def cut_digital_music(source: Path, target: Path) -> None:
    """Amazon 2014: the shortest reviews, metadata of what they name, and metadata with each fault that occurs."""
    reviews = read_lines(source / "reviews_Digital_Music_5.json.gz", json.loads)
    short = {line for line, _ in sorted(reviews, key=lambda line: (len(line[0]), line[0]))[:N_SONGS]}
    reviews = [line for line in reviews if line[0] in short]
    write_gzip(target / "reviews_Digital_Music_5.json.gz", reviews)

    reviewed = {review["asin"] for _, review in reviews}
    metadata = read_lines(source / "meta_Digital_Music.json.gz", ast.literal_eval)
    others = [meta["asin"] for _, meta in metadata if "title" not in meta][:N_OTHERS]
    others += [meta["asin"] for _, meta in metadata if "no-img" in meta.get("imUrl", "")][:N_OTHERS]
    others += [meta["asin"] for _, meta in metadata if "&" in meta.get("title", "")][:N_OTHERS]
    others += [meta["asin"] for _, meta in metadata if "price" not in meta][:N_OTHERS]
    write_gzip(
        target / "meta_Digital_Music.json.gz", [line for line in metadata if line[1]["asin"] in reviewed | {*others}]
    )


def cut_movielens(source: Path, target: Path) -> None:
    """MovieLens: all ratings of the first users with few of them, the movies they rated and some more, the terms."""
    header, *lines = (source / "ratings.csv").read_bytes().splitlines(keepends=True)
    ratings = [(line, row[0], row[1]) for line in lines for row in [next(csv.reader([line.decode()]))]]
    n_ratings = Counter(user for _, user, _ in ratings)
    users = [user for user, n in n_ratings.items() if n in RATINGS_OF_A_VIEWER][:N_VIEWERS]
    chosen = [rating for rating in ratings if rating[1] in users]
    write(target / "ratings.csv", [header, *(line for line, _, _ in chosen)])

    rated = {movie for _, _, movie in chosen}
    header, *lines = (source / "movies.csv").read_bytes().splitlines(keepends=True)
    movies = [(line, next(csv.reader([line.decode()]))[0]) for line in lines]
    others = [movie for _, movie in movies if movie not in rated][:N_OTHERS]
    write(target / "movies.csv", [header, *(line for line, movie in movies if movie in rated | {*others})])
    copy([source / "README.txt"], target)


def cut_examples(source: Path, target: Path) -> None:
    """Amazon 2023: the whole folder, the few lines that the data set's own page shows."""
    copy(sorted(source.iterdir()), target)


CUTS: dict[str, Callable[[Path, Path], None]] = {
    "amazon2018_gift_cards": cut_gift_cards,
    "amazon2014_digital_music": cut_digital_music,
    "amazon2023_raw_examples": cut_examples,
    "movielens_posters_small": cut_movielens,
}


def cut_all(root: Path, target: Path) -> None:
    """Cut every slice from the folders of whole sets in `root` into folders of the same names."""
    for name, cut in CUTS.items():
        cut(root / name, target / name)


def read_lines(path: Path, parse: Callable[[str], dict[str, Any]]) -> list[Line]:
    """Return every line of a gzip file, as bytes and parsed."""
    with gzip.open(path, "rb") as file:
        return [(line, parse(line.decode("utf-8"))) for line in file]


def most(counts: Counter[str], n: int) -> set[str]:
    """Return the n most frequent keys; of equally frequent ones, the first by name."""
    return set(sorted(counts, key=lambda key: (-counts[key], key))[:n])


def write(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(lines))


def write_gzip(path: Path, lines: Iterable[Line]) -> None:
    """Write lines as they are into a gzip file that holds neither its name nor the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.writelines(line for line, _ in lines)


def copy(paths: Iterable[Path], folder: Path) -> None:
    """Copy files into a folder, without their read-only permission."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.copyfile(path, folder / path.name)


if __name__ == "__main__":
    cut_all(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
