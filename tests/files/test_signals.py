"""Signals stop a command once and gently, twice at once; processes that it starts are told, and waited for."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mllm_srec.files import signals
from mllm_srec.files.signals import Stopped, deferred, raise_received, received, run_process, stoppable

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.fixture(autouse=True)
def usual_handlers():
    """Python's own handlers; a shell has jobs behind `&`, such as these tests and their children, ignore Ctrl-C."""
    before = [signal.signal(INT, signal.default_int_handler), signal.signal(TERM, signal.SIG_DFL)]
    yield
    for number, handler in zip((INT, TERM), before, strict=True):
        signal.signal(number, handler)


def tell(number):
    os.kill(os.getpid(), number)


def test_the_first_signal_stops():
    with stoppable():
        assert received() == 0
        with pytest.raises(Stopped) as stop:
            tell(TERM)
    assert (stop.value.number, stop.value.status, stop.value.cause) == (15, 143, "SIGTERM")
    assert Stopped(INT).cause == "Ctrl-C"


def test_deferred_signals_wait():
    with stoppable(), deferred():
        tell(INT)
        tell(TERM)
        assert received() == INT, "the first decides"
        with pytest.raises(Stopped):
            raise_received()


def test_handlers_are_given_back_and_forgotten():
    before = [signal.getsignal(number) for number in (INT, TERM)]
    with stoppable(), pytest.raises(Stopped):
        tell(TERM)
    assert [signal.getsignal(number) for number in (INT, TERM)] == before
    with stoppable():
        assert received() == 0
        raise_received()


def test_what_a_library_took_is_taken_back():
    with deferred():
        signal.signal(TERM, signal.SIG_DFL)
        signals.take_over()
        tell(TERM)
        assert received() == TERM


def test_what_the_shell_has_ignored_stays_ignored():
    before = signal.signal(INT, signal.SIG_IGN)
    try:
        with stoppable():
            tell(INT)
            assert received() == 0
    finally:
        signal.signal(INT, before)


def python(code, **options):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("launcher", [{}, {"TORCHELASTIC_RUN_ID": "1"}])
def test_a_second_one_ends_at_once(launcher):
    """By a clock of its own: a busy machine may sleep for longer than two signals that count once lie apart."""
    code = (
        "import os, sys\nfrom types import SimpleNamespace\nfrom mllm_srec.files import signals\n"
        "same = signals.SAME_UNDER_TORCHRUN if 'TORCHELASTIC_RUN_ID' in os.environ else signals.SAME\n"
        "times = [100.0, 100.0 + same - 0.01, 100.0 + same + 0.01]\n"
        "signals.time = SimpleNamespace(monotonic=lambda: times.pop(0))\n"
        "with signals.deferred():\n"
        " for n in 'abc':\n  print(n, flush=True)\n  os.kill(os.getpid(), int(sys.argv[1]))\n"
        " print('still here')\n"
    )
    for number in (INT, TERM):
        done = subprocess.run(
            [sys.executable, "-c", code, str(int(number))],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **launcher},
        )
        assert (done.returncode, done.stdout) == (128 + number, "a\nb\nc\n"), done.stderr
        assert "ended at once" in done.stderr


CHILD = (
    "import time\nfrom mllm_srec.files.signals import SAME, deferred, received\n"
    "with deferred():\n print('ready', flush=True)\n while not received(): time.sleep(0.01)\n"
    " time.sleep(SAME + 0.3)\n"  # it saves; being told again would end it at once
    "print('told', received(), flush=True)\nraise SystemExit(128 + received())\n"
)


@pytest.mark.parametrize(("number", "status"), [(INT, 130), (TERM, 143)])
def test_a_process_that_was_started_is_told_and_waited_for(number, status):
    code = (
        "import sys\nfrom mllm_srec.files.signals import Stopped, run_process, stoppable\n"
        f"child = [sys.executable, '-c', {CHILD!r}]\n"
        "with stoppable():\n"
        " try: run_process(child)\n"
        " except Stopped as stop: print('stopped', flush=True); sys.exit(stop.status)\n"
    )
    process = python(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (status, "told 15\nstopped\n")


def test_a_process_that_was_stopped_alone_stops_this_one_too():
    assert run_process([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    for end in ("raise SystemExit(143)", "import os; os.kill(os.getpid(), 15)"):
        with pytest.raises(Stopped) as stop:
            run_process([sys.executable, "-c", end])
        assert stop.value.number == TERM


def test_forked_processes_leave_ctrl_c_to_their_parent():
    with deferred():
        pid = os.fork()
        if pid == 0:
            if signal.getsignal(INT) != signal.SIG_IGN:
                os._exit(1)
            os.kill(os.getpid(), INT)
            os.kill(os.getpid(), TERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -TERM
        assert received() == 0


def test_other_threads_leave_the_handlers_alone():
    before, seen = [signal.getsignal(number) for number in (INT, TERM)], []

    def work():
        with stoppable(), deferred():
            seen.extend(signal.getsignal(number) for number in (INT, TERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before, "only the main thread may set them"
