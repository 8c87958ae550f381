"""Parameters of the demo shop with rules: the ceilings of many settings, before any model is trained.

    python experiments/demo_rules.py demo --out experiments/results/demo_rules/demo.csv
    python experiments/demo_rules.py long --out experiments/results/demo_rules/long.csv

Only shops of the seeds in `SEEDS` are drawn, on which nothing is reported. No picture is drawn and nothing is trained:
the readers know what a picture would show. Each row has the mean AUC (liked against sampled) of the readers over the
seeds, the largest standard error of these means, the gaps that the shop must keep, and the share of users' days and
dislikes by which a setting may be unfit.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from mllm_srec.data.demo.ceilings import score_targets
from mllm_srec.data.demo.shop import draw_interactions, item_truth
from mllm_srec.data.prepare_report import PrepareReport
from mllm_srec.data.ratings import RatingRule, is_liked
from mllm_srec.data.settings import CandidateSettings, DemoSettings, PrepareSettings
from mllm_srec.data.tables.interactions import deduplicate, k_core
from mllm_srec.data.tables.splits import assign_splits
from mllm_srec.data.tables.targets import Tables, build_tables

SEEDS = tuple(range(900, 904))
"""Seeds of the search; shops that report anything have others."""

DEMO = DemoSettings(order=0.6, house=0.25, image_share=0.55)
LONG = DemoSettings(n_items=1000, n_interactions=100, order=0.3, drift=1e-4, noise=0.25, last_likes=8)
DEMO_GRID = {"house": (0.25, 0.3), "image_share": (0.5, 0.55, 0.6)}
LONG_GRID = {"noise": (0.2, 0.25, 0.3)}


def main() -> None:
    """Measure every setting of a grid and write a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shop", choices=("demo", "long"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    for name in (
        "order",
        "house",
        "drift",
        "noise",
        "like_share",
        "image_share",
        "n_items",
        "last_likes",
        "n_interactions",
    ):
        parser.add_argument(f"--{name}", type=float, nargs="+", help="values in place of the grid's")
    args = parser.parse_args()
    base, grid = (DEMO, DEMO_GRID) if args.shop == "demo" else (LONG, LONG_GRID)
    given = {n: v for n, v in vars(args).items() if v is not None and n in DemoSettings.__dataclass_fields__}
    rows = []
    for settings in settings_of(base, grid | given):
        begin = time.perf_counter()
        rows.append(measured(settings, args.seeds))
        print({k: round(v, 4) for k, v in rows[-1].items()}, f"{time.perf_counter() - begin:.0f} s", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).write_csv(args.out, float_precision=4)


def settings_of(base: DemoSettings, grid: dict[str, tuple[float, ...]]) -> Iterator[DemoSettings]:
    """Yield `base` with every combination of the values of a grid."""
    for values in itertools.product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        kinds = {name: type(getattr(base, name)) for name in changes}
        yield replace(base, **{name: kinds[name](value) for name, value in changes.items()})


def measured(settings: DemoSettings, seeds: list[int]) -> dict[str, float]:
    """Return the settings, the readers' mean AUC over shops of these seeds, and the gaps between them."""
    results = [measured_shop(replace(settings, seed=seed)) for seed in seeds]
    table = pl.DataFrame(results)
    means = {name: float(table[name].mean()) for name in table.columns}  # type: ignore[arg-type]
    full = means["reader_both"]
    names = ("order", "house", "drift", "noise", "like_share", "image_share", "n_items", "n_interactions", "last_likes")
    gaps = {
        f"full - {name}": full - means[f"{name}_both"] for name in ("averaging", "shuffled", "recent")
        if f"{name}_both" in means
    }  # fmt: skip
    gaps["both - either"] = full - max(means["reader_text"], means["reader_image"])
    errors = [float(table[name].std()) / len(seeds) ** 0.5 for name in table.columns if name.startswith("reader_")]  # type: ignore[arg-type]
    return {name: float(getattr(settings, name)) for name in names} | means | gaps | {"error": max(errors)}


def measured_shop(settings: DemoSettings) -> dict[str, float]:
    """Return the readers' AUC on the test pairs of one shop split leave-one-out, and facts of its histories."""
    tables, interactions = shop_tables(settings)
    pairs = tables.samples.filter(pl.col("split") == "test")
    scored = score_targets(pairs, tables.groups, interactions, settings)
    liked, drawn = (scored.filter(pl.col("kind") == kind) for kind in ("liked", "sampled"))
    columns = [name for name in scored.columns if name.endswith(("_both", "_text", "_image"))]
    per_user = interactions.group_by("user_id").agg(
        n=pl.len(), days=(pl.col("timestamp").max() - pl.col("timestamp").min()) / 86_400_000
    )
    facts = {
        "dislikes": 1 - interactions.select(is_liked().mean()).item(),
        "days": per_user["days"].mean(),
        "fewest": per_user["n"].min(),
    }
    return {name: area(liked[name].to_numpy(), drawn[name].to_numpy()) for name in columns} | facts


def shop_tables(settings: DemoSettings) -> tuple[Tables, pl.DataFrame]:
    """Return groups and targets as `prepare` makes them, and the interactions with their splits."""
    prepare = PrepareSettings(source="demo", split="leave_one_out", demo=settings, max_history=200)
    report = PrepareReport()
    rows = deduplicate(RatingRule.of(prepare).mark(draw_interactions(settings)), report)
    rows = assign_splits(k_core(rows, prepare.k_core, report), prepare.split, prepare.seed, report)
    kept = item_truth(settings)["item_id"].filter(
        item_truth(settings)["item_id"].is_in(rows["item_id"].unique().to_list())
    )
    tables = build_tables(rows, kept, prepare, CandidateSettings(n_negatives=1), report)
    return tables, rows


def area(positive: np.ndarray, negative: np.ndarray) -> float:
    """P(a positive scores above a negative), ties counting half."""
    ordered = np.sort(negative)
    below, not_above = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(ordered)))


if __name__ == "__main__":
    main()
