"""A script that imports and uses `Ranker` prints what it prints itself, and keeps what it had switched on."""

import os
import shutil
import subprocess
import sys

from tests.conftest import write_picture

SCRIPT = """
import logging, sys, warnings
logging.basicConfig(level=logging.INFO, format="LOG %(name)s %(message)s")
for name in ("httpx", "filelock", "datasets"):
    logging.getLogger(name).setLevel(logging.WARNING)
filters = list(warnings.filters)
from mllm_srec import History, NewItem, Ranker, case_studies, history_table
run, root, picture = sys.argv[1:]
ranker = Ranker.open(run, data_root=root)
mug = NewItem("violet mug", image=picture)
ranked = ranker.rank(History(["i03", mug, "i07"]), new_items=[mug])
assert ranked.table.height == 10
assert len(list(ranker.rank_all(["u00", "u01"]))) == 2
history_table(ranker, ranker.person("u00"))
from transformers.utils import logging as bars
assert bars.is_progress_bar_enabled()
assert not [entry for entry in warnings.filters if entry not in filters and "LightningCLI" in str(entry[1])]
logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: for my own Trainer")
"""


def test_a_script_prints_its_own_messages_only(write_run, told_root, tmp_path):
    run = write_run(tmp_path / "run", told_root, variant="full")
    root = shutil.copytree(told_root, tmp_path / "data")
    picture = write_picture(tmp_path / "mug.png", 70, 80, seed=99)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(run), str(root), str(picture)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    own = "GPU available: for my own Trainer"  # said by Lightning's handler and by that of the script
    assert done.stderr.splitlines() == [f"INFO: {own}", f"LOG lightning.pytorch.utilities.rank_zero {own}"]
