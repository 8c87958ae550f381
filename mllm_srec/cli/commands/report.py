"""`report`: write finished grids and runs as one page, and each table and figure as a file of its own."""

from __future__ import annotations

from pathlib import Path

from jsonargparse.typing import NonNegativeInt

from mllm_srec.cli.parser import Parser
from mllm_srec.cli.schema import PROGRAM

DESCRIPTION = (
    "Write finished results as one self-contained page (index.html), each of its tables as Markdown, LaTeX and CSV, "
    "and each of its figures as PNG, SVG and PDF. Nothing is measured again."
)
RESULTS = Path("experiments/results")
"""Parent of the results that are shown if none are given."""

TITLE = "Multimodal sequential recommendation: results"


def main(command: str, arguments: list[str]) -> None:
    """Write the report."""
    config = _parser(command).parse_args(arguments)
    print(f"making the report in {config.output}", flush=True)  # before the libraries, which take seconds
    from mllm_srec.files.quiet import silence_libraries
    from mllm_srec.pipeline.report.report import check_report_folder, write_report
    from mllm_srec.pipeline.report.sources import find_results

    silence_libraries()
    folder = Path(config.output)
    check_report_folder(folder)
    results = [Path(path) for path in config.results]
    if not results and not config.runs:
        results = find_results(RESULTS)
    report = write_report(
        results, [Path(path) for path in config.runs], folder, config.title, (config.cases, config.seed)
    )
    for note in report.notes:
        print(note)
    print(f"written: {report.page}, {report.n_tables} tables, {report.n_figures} figures")


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"{PROGRAM} {command}", description=DESCRIPTION)
    parser.add_argument(
        "results",
        type=str,
        nargs="*",
        metavar="RESULTS",
        help=f"Folders of grids, of Table 2 and Figure 7; none: all below {RESULTS} without those of --quick.",
    )
    parser.add_argument("--runs", type=str, nargs="+", default=[], metavar="RUN", help="Folders of tested runs.")
    parser.add_argument("--output", type=str, default="report", help="Folder of the report.")
    parser.add_argument("--title", type=str, default=TITLE, help="Title of the page.")
    parser.add_argument(
        "--cases", type=NonNegativeInt, default=2, help="Number of right and of wrong cases of one run of each grid."
    )
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="Seed that draws the cases.")
    return parser
