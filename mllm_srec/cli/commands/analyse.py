"""`analyse`: split results of finished runs by length of history, popularity of items, and kind of negative."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mllm_srec.cli.parser import Parser
from mllm_srec.cli.schema import PROGRAM

DESCRIPTION = (
    "Split the results of finished runs: rank lists and pairs by length of history, positives by train likes of their "
    "item (cold items), AUC against negatives that are as popular as the positives, and against dislikes. Each number "
    "has a 95 % interval from a bootstrap over users. Give runs that differ only in their seed as "
    "NAME=RUN,RUN,...: their values are averaged."
)
METRICS = ("ndcg@10", "user_auc")
"""Metrics of candidate lists that are split by default."""

BINS = (0, 1, 3, 6, 11, 21)
"""Lowest values of the strata by default."""


def main(command: str, arguments: list[str]) -> None:
    """Print the tables of finished runs."""
    config = _parser(command).parse_args(arguments)
    from mllm_srec.pipeline.analysis.analyse import analyse_runs, check_output, write_analysis
    from mllm_srec.pipeline.analysis.run_groups import run_groups
    from mllm_srec.pipeline.analysis.strata import StrataSettings
    from mllm_srec.reports.terminal.strata import print_strata

    output = None if config.output is None else Path(config.output)
    groups = run_groups(config.runs, least=1)
    if output is not None:
        check_output(output)
    settings = StrataSettings(
        history_bins=tuple(config.history_bins),
        like_bins=tuple(config.like_bins),
        popularity_bins=config.popularity_bins,
        n_resamples=config.n_resamples,
        seed=config.seed,
    )
    analysis = analyse_runs(groups, config.metrics, config.split, settings, config.data_root)
    lines = list(analysis.notes)
    if output is not None:
        write_analysis(analysis, output)
        lines.append(f"written: {output}")
    print_strata(config.split, analysis.table.to_dicts(), lines)


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", description=DESCRIPTION)
    parser.add_argument(
        "runs", type=str, nargs="+", metavar="RUN", help="Run folder, or NAME=RUN,RUN,... for seeds of one variant."
    )
    parser.add_argument(
        "--metrics", type=str, nargs="+", default=list(METRICS), help="Columns of predictions/<split>_users.parquet."
    )
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="Analysed split.")
    parser.add_argument(
        "--history_bins", type=NonNegativeInt, nargs="+", default=list(BINS), help="Lowest lengths of the bins."
    )
    parser.add_argument(
        "--like_bins", type=NonNegativeInt, nargs="+", default=list(BINS), help="Lowest train likes of the bins."
    )
    parser.add_argument("--popularity_bins", type=PositiveInt, default=20, help="Bins in which negatives are matched.")
    parser.add_argument("--n_resamples", type=PositiveInt, default=1000, help="Number of resamples of the bootstrap.")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="Seed of the bootstrap.")
    parser.add_argument("--data_root", type=str | None, default=None, help="Folder of moved data sets.")
    parser.add_argument("--output", type=str | None, default=None, help="CSV file that gets the table, too.")
    return parser
