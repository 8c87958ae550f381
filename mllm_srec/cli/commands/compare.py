"""`compare`: compare finished runs with the first of them, user by user."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from jsonargparse.typing import NonNegativeInt, PositiveInt

from mllm_srec.cli.parser import Parser
from mllm_srec.cli.schema import PROGRAM

DESCRIPTION = (
    "Compare finished runs with the first one given, on the same users: means, differences with 95 % intervals and "
    "p-values from a paired bootstrap over users (exact where few users differ), and p-values corrected (Holm) over "
    "everything shown. Give runs that differ only in their seed as NAME=RUN,RUN,...: their values are averaged within "
    "each user, and the deviation over seeds is shown beside the mean; --resample users_and_seeds puts it into "
    "intervals and p-values, too."
)
METRICS = ("ndcg@10", "hr@10", "user_auc")
"""Metrics that are shown by default."""


def main(command: str, arguments: list[str]) -> None:
    """Print the table of finished runs."""
    config = _parser(command).parse_args(arguments)
    from mllm_srec.pipeline.analysis.comparison import check_output, compare_runs, notes, write_comparison
    from mllm_srec.pipeline.analysis.run_groups import run_groups
    from mllm_srec.reports.terminal.comparison import print_comparison

    output = None if config.output is None else Path(config.output)
    groups = run_groups(config.runs)
    if output is not None:
        check_output(output)
    comparison = compare_runs(groups, config.metrics, config.split, config.n_resamples, config.seed, config.resample)
    lines = notes(comparison)
    if output is not None:
        write_comparison(comparison, output)
        lines.append(f"written: {output}")
    print_comparison(f"{comparison.split}: runs compared with {groups[0].name!r}", comparison.rows, lines)


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", description=DESCRIPTION)
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        metavar="RUN",
        help="Run folder, or NAME=RUN,RUN,... for seeds; the first is the base.",
    )
    parser.add_argument(
        "--metrics", type=str, nargs="+", default=list(METRICS), help="Columns of predictions/<split>_users.parquet."
    )
    parser.add_argument("--split", type=Literal["test", "val"], default="test", help="Compared split.")
    parser.add_argument(
        "--resample",
        type=Literal["users", "users_and_seeds"],
        default="users",
        help="What interval and p account for: other users, or other users and other seeds.",
    )
    parser.add_argument("--n_resamples", type=PositiveInt, default=10_000, help="Number of resamples of the bootstrap.")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="Seed of the bootstrap.")
    parser.add_argument("--output", type=str | None, default=None, help="JSON file that gets the table, too.")
    return parser
