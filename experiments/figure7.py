"""Figure 7 of the article: case studies of a tested run, right and wrong ones, drawn by a seed.

python experiments/figure7.py runs/demo-small/<run>

Histories with pictures, what the model wrote and was told, its probabilities and the truth. `report` shows them too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mllm_srec.files.quiet import silence_libraries, silence_loggers
from mllm_srec.reports.page.case_files import write_cases
from mllm_srec.types import ConfigError, DataError

OUTPUT = Path(__file__).resolve().parent / "results/figure7"


def make_figure(run: Path, output: Path, n_cases: int = 2, seed: int = 0) -> list[Path]:
    """Draw cases of a run and write them.

    Args:
        run: Folder of a tested run, whose data set is where its settings say.
        output: Folder of the results.
        n_cases: Right and wrong ones, so many of each where there are.
        seed: Of the drawing.

    Raises:
        ConfigError: The folder holds no tested run, or its data set or summaries are gone.
        DataError: The predictions are of another data set.
    """
    from mllm_srec.pipeline.report.case_studies import case_studies  # what libraries print then is silenced before
    from mllm_srec.pipeline.runs.settings import read_settings

    studies = case_studies(run, n_cases, n_cases, seed)
    return write_cases(studies, read_settings(run)["prepare"]["source"] == "demo", output)


def main() -> None:
    """Read the command line and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder of a tested run.")
    parser.add_argument("--cases", type=int, default=2, help="Right and wrong cases, so many of each.")
    parser.add_argument("--seed", type=int, default=0, help="Of their drawing.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="Folder of the results.")
    arguments = parser.parse_args()
    if arguments.cases < 1 or arguments.seed < 0:
        parser.error(f"--cases {arguments.cases} --seed {arguments.seed}: at least 1 and at least 0 are accepted")
    silence_loggers()
    silence_libraries()
    try:
        paths = make_figure(arguments.run, arguments.output, arguments.cases, arguments.seed)
    except (ConfigError, DataError) as error:
        parser.error(str(error))
    print("written:", *paths)


if __name__ == "__main__":
    main()
