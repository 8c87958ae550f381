"""Runs of all summary stages that can be killed, as a script: `summarize_worker.py BACKBONE`.

Imports everything once. A line of its input is a JSON list of runs that begin side by side, each one `[FOLDER, WAITS,
LOG]`: a process group on the data set FOLDER, printing to LOG, with a rank for each number of seconds that it waits at
first. Answers with the numbers of the groups, once they can be killed, and with the exit codes of all ranks when they
have ended.
"""

import json
import os
import socket
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers.models.qwen2_vl.modeling_qwen2_vl  # noqa: F401 - imported once, not by every run

from mllm_srec.data.dataset import PreparedDataset
from mllm_srec.data.settings import PictureSettings
from mllm_srec.files.folders import build_lock
from mllm_srec.pipeline.runs.names import is_first_process
from mllm_srec.prompts.decoding import GenerationSettings
from mllm_srec.prompts.templates import PromptSettings
from mllm_srec.summaries.plan import SummaryPlan
from mllm_srec.summaries.run import Summarizer, summary_trainer
from mllm_srec.summaries.settings import STAGES, StageSettings, SummarySettings

ONE_BY_ONE = StageSettings(
    quantization="none",
    token_budget=1,  # a batch for each summary: many moments between two
    generation=GenerationSettings(max_new_tokens=16, sample=True, temperature=1.0, top_p=1.0),
)
SETTINGS = SummarySettings(window=2, step=1, image=ONE_BY_ONE, item=ONE_BY_ONE, preference=ONE_BY_ONE)


def summarize(folder, backbone, n_ranks):
    pictures = PictureSettings(max_pixels=4 * 28 * 28)
    plan = SummaryPlan(PreparedDataset.open(folder), SETTINGS, PromptSettings(), pictures, backbone, None)
    strategy = {"strategy": "ddp"} if n_ranks > 1 else {}
    trainer = summary_trainer(accelerator="cpu", devices=n_ranks, enable_progress_bar=False, **strategy)
    with build_lock(Path(folder) / "summaries") if is_first_process() else nullcontext():  # as the command does
        Summarizer(plan, trainer).run(STAGES)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def tell(what):
    print(json.dumps(what), flush=True)


def rank(number, folder, waits, log, backbone, environment):
    """One process of a run."""
    time.sleep(waits[number])
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    if len(waits) > 1:
        os.environ.update(environment, WORLD_SIZE=str(len(waits)), LOCAL_RANK=str(number))
    summarize(folder, backbone, len(waits))


def start(folder, waits, log, backbone):
    """Fork the ranks of one run into a group; their process ids, the group's first."""
    environment = {"NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    pids = []
    for number in range(len(waits)):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                rank(number, folder, waits, log, backbone, environment)
                code = 0
            except BaseException as error:  # nothing may run on into the parent's loop
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        pids.append(pid)
        os.setpgid(pid, pids[0])
    return pids


def main(backbone):
    torch.set_num_threads(1)
    for line in sys.stdin:
        runs = [start(*arguments, backbone) for arguments in json.loads(line)]
        tell([pids[0] for pids in runs])
        tell([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pids in runs for pid in pids])


if __name__ == "__main__":
    main(sys.argv[1])
