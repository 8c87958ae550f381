"""One writer of the kill tests, run as a script: `append_worker.py FOLDER RANK N_RANKS N_RECORDS SEED`.

Writes every `N_RANKS`-th record from `RANK` on that is missing, some per call, and prints each key once `append` has
returned. Then waits until the records of the other ranks can be read, and prints what was recovered.
"""

import random
import sys
import time
from pathlib import Path

from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries.store import SummaryStore

LETTERS = 'abc "\\\n\r\0\t\x1c\x85\u2028\u2029é漢😀\ud800'


def record(index):
    """The record with this number, the same in every process."""
    draw = random.Random(index)
    text = "".join(draw.choices(LETTERS, k=draw.randrange(400)))
    return Summary(f"key-{index}", text, draw.choice(["stop", "length"]), draw.randrange(200))


def main(folder, rank, n_ranks, n_records, seed):
    draw = random.Random(seed)
    with SummaryStore(folder, rank) as store:
        missing = (i for i in range(rank, n_records, n_ranks) if f"key-{i}" not in store)
        while batch := [record(i) for _, i in zip(range(draw.randrange(1, 5)), missing, strict=False)]:
            store.append(batch)
            print("\n".join(r.key for r in batch), flush=True)
            store.refresh()
        deadline = time.monotonic() + 120
        while len(store) < n_records and time.monotonic() < deadline:
            time.sleep(0.01)
            store.refresh()
        if any(store[f"key-{i}"] != record(i) for i in range(n_records)) or store.notices:
            sys.exit(f"not what was written: {store.notices}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
