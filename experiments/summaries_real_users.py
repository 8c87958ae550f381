"""Item summaries and preferences of real users, written by our own commands, for people to read.

    python experiments/summaries_real_users.py --data FOLDER --backbone FOLDER --work FOLDER [--wording short]

Draws users who liked enough of Amazon's gift cards (5-core of 2018), prepares a data set of all that they reviewed, and
writes summaries with a small instruction-tuned backbone. The modality is `text`: the backbone at hand has a pretrained
language half and an *untrained* vision tower, whose picture summaries would be noise. Descriptions stand behind titles,
which alone leave an item summary nothing to say. The split is leave-one-out; shown is the last preference that the
user's test context reads, made of the likes before the held-out one. A run that was killed continues.

Two numbers say whether a preference tells its user from others: how often it names more of the words of the user's own
liked titles, or of the held-out one, than of another user's (chance 0.5). Words, not truth: copied titles do well.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule, is_liked
from mllm_srec.data.raw.amazon import read_reviews
from mllm_srec.data.tables.interactions import deduplicate
from mllm_srec.prompts.templates import ITEM_PROMPT, PREFERENCE_PROMPT
from mllm_srec.summaries.preference_chains import build_chains
from mllm_srec.summaries.tables import LATEST
from mllm_srec.summaries.text_quality import copies, is_refusal, repeats_itself

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "summaries_real_users.json"
REVIEWS, METADATA = "Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz"
NAME = "gift_cards_real_users"
MAX_NEW_TOKENS = {"item": 48, "preference": 64}
N_SHOWN = 10  # users printed and kept in full: the first by their ids
WORDINGS = {
    "article": {"item": ITEM_PROMPT, "preference": PREFERENCE_PROMPT},
    "short": {  # for a model of its size
        "item": "Summarize this item in one sentence.",
        "preference": "What does this user like? Answer in one sentence.",
    },
}


def draw_users(reviews: Path, n_users: int, min_likes: int) -> list[str]:
    """So many users with at least `min_likes` liked items, each item judged by its earliest review."""
    report = PrepareReport()
    first = deduplicate(RatingRule().mark(read_reviews(reviews, "amazon2018", report)), report)
    likes = first.filter(is_liked()).group_by("user_id").len().filter(pl.col("len") >= min_likes)
    users = likes["user_id"].sort().to_list()
    if len(users) < n_users:
        raise SystemExit(f"--users {n_users}: only {len(users)} users of {reviews} liked {min_likes} items")
    return sorted(np.random.default_rng(0).choice(users, n_users, replace=False).tolist())


def keep_users(reviews: Path, users: Sequence[str], target: Path) -> None:
    """Copy the raw lines of some users, letter by letter."""
    wanted = set(users)
    with gzip.open(reviews, "rt", encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        out.writelines(line for line in lines if json.loads(line)["reviewerID"] in wanted)


def write_config(options: argparse.Namespace, reviews: Path) -> Path:
    """The one configuration that both commands read."""
    stages = {
        stage: {"quantization": "none", "prompt": question, "generation": {"max_new_tokens": MAX_NEW_TOKENS[stage]}}
        for stage, question in WORDINGS[options.wording].items()
    }
    content = {
        "data": {"root": str(options.work), "name": NAME, "prompt": {"description": True, "max_item_tokens": 64}},
        "prepare": {
            "source": "amazon2018",
            "reviews": str(reviews),
            "metadata": str(options.data / METADATA),
            "k_core": 1,  # the draw has thinned the shop out; nothing of these users is to be dropped
            "split": "leave_one_out",
        },
        "summaries": {"modality": "text", **stages},
        "model": {"backbone": str(options.backbone)},
        "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
    }
    path: Path = options.work / f"{options.wording}.yaml"
    path.write_text(json.dumps(content))
    return path


def run(command: str, config: Path) -> None:
    """One of our commands as a person types it."""
    log = config.with_name(f"{config.stem}-{command}.log")
    arguments = [sys.executable, "-m", "mllm_srec", command, "--config", str(config)]
    with log.open("w") as output:
        done = subprocess.run(arguments, stdout=output, stderr=subprocess.STDOUT, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{command} failed; see {log}")


def faults(text: str, finish_reason: str, question: str) -> list[str]:
    """Names of the checks that a text fails, as `quality.json` counts them."""
    found = {"cut off": finish_reason == "length", "refused": is_refusal(text), "repeated": repeats_itself(text)}
    return [name for name, failed in {**found, "copied prompt": copies(text, question)}.items() if failed]


def shown_users(prepared: Path, question: str) -> list[dict[str, Any]]:
    """What there is to read of each user, by user id; ids themselves are left out."""
    data = PreparedDataset.open(prepared)
    titles = dict(data.items.select("item_id", "title").iter_rows())
    likes = data.interactions.filter(is_liked() & (pl.col("split") == "test"))
    held_out = dict(likes.select("user_id", "item_id").iter_rows())
    items = dict(pl.read_parquet(prepared / "summaries/item" / LATEST).select("item_id", "text").iter_rows())
    states = pl.read_parquet(prepared / "summaries/preference" / LATEST).filter(visible="train_val").sort("step")
    users = []
    for chain in build_chains(data.interactions):
        written = states.filter(user_id=chain.user_id).to_dicts() if chain.visible == "train_val" else []
        if written and chain.user_id in held_out:
            *earlier, last = written
            read = chain.items[: chain.keys.index((last["timestamp"], last["order"])) + 1]
            users.append(
                {
                    "liked": [titles[item] for item in read],
                    "item_summaries": [items[item] for item in read],
                    "preferences_before": [state["text"] for state in earlier],
                    "preference": last["text"],
                    "faults": faults(last["text"], last["finish_reason"], question),
                    "held_out": titles[held_out[chain.user_id]],
                }
            )
    return users


def auc(texts: Sequence[str], titles: Sequence[str]) -> float:
    """How often a text names a larger share of the words of its own titles than of another user's; ties are half."""
    said, asked = ([set(re.findall(r"\w+", text.lower())) for text in some] for some in (texts, titles))
    shares = np.array([[len(words & own) / max(1, len(own)) for own in asked] for words in said])  # (users, users)
    margins = np.diag(shares)[:, None] - shares
    off_diagonal = margins[~np.eye(len(texts), dtype=bool)]
    return round(float(((off_diagonal > 0) + 0.5 * (off_diagonal == 0)).mean()), 3)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Numbers of both stages, and the first users in full."""
    data, questions = options.work / NAME, WORDINGS[options.wording]
    quality = {stage: json.loads((data / "summaries" / stage / "quality.json").read_text()) for stage in questions}
    for numbers in quality.values():
        del numbers["view"], numbers["backbone"]  # a path of one machine
    users = shown_users(data, questions["preference"])
    preferences = [user["preference"] for user in users]
    return {
        **{"prompts": questions, "max_new_tokens": MAX_NEW_TOKENS, "quality": quality},
        "n_users": len(users),
        "n_without_fault": sum(not user["faults"] for user in users),
        "auc_own_titles": auc(preferences, [" ".join(user["liked"]) for user in users]),
        "auc_held_out_title": auc(preferences, [user["held_out"] for user in users]),
        "users": users[:N_SHOWN],
    }


def folder(path: str) -> Path:
    """An absolute path: the commands run in a folder of their own."""
    return Path(path).resolve()


def main() -> None:
    """Draw, prepare, summarise, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=folder, required=True, help=f"Folder of {REVIEWS} and {METADATA}.")
    parser.add_argument("--backbone", type=folder, required=True, help="Folder of a Qwen2-VL that speaks English.")
    parser.add_argument("--work", type=folder, required=True, help="Where the data set and its summaries go.")
    parser.add_argument("--wording", choices=tuple(WORDINGS), default="short")
    parser.add_argument("--users", type=int, default=30)
    parser.add_argument("--min_likes", type=int, default=7, help="7: two windows of three before the held-out like.")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    reviews = options.work / "reviews.json"
    keep_users(options.data / REVIEWS, draw_users(options.data / REVIEWS, options.users, options.min_likes), reviews)
    config = write_config(options, reviews)
    for command in ("prepare", "summarize"):
        run(command, config)
    result = measure(options)
    for number, user in enumerate(result["users"], start=1):
        print(f"\n{number}. liked: {'; '.join(user['liked'])}\n   held out: {user['held_out']}")
        print(f"   {user['preference']}\n   faults: {', '.join(user['faults']) or 'none'}")
    print(json.dumps({name: value for name, value in result.items() if name != "users"}, indent=2))
    content = json.loads(options.output.read_text()) if options.output.exists() else {}
    content |= {"backbone": options.backbone.name, "min_likes": options.min_likes, options.wording: result}
    options.output.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
