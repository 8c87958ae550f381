"""A writer whose disk gets full, run as a script: `disk_full_worker.py FOLDER LIMIT`, in bytes of the shard.

Writes records until one does not fit, tries once more with room again, and prints how many calls had returned before.
"""

import resource
import sys
from pathlib import Path

from mllm_srec.prompts.summaries import Summary
from mllm_srec.summaries.store import SummaryStore
from mllm_srec.types import ConfigError


def main(folder, limit):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with SummaryStore(folder) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        n_returned = 0
        try:
            while True:
                store.append([Summary(f"key-{n_returned}", "text", "stop", 1)])
                n_returned += 1
        except ConfigError as error:
            print(n_returned, error)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        store.append([Summary(f"key-{n_returned}", "text", "stop", 1)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
