"""The first second: what is wrong on a command line is said before torch is imported, and nothing right is refused."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from jsonargparse import Namespace

from mllm_srec.__main__ import main
from mllm_srec.baselines.base import ItemRecommender
from mllm_srec.cli import early
from mllm_srec.cli.commands import clean, rank, summarize
from mllm_srec.cli.messages import explained, unclear_values
from mllm_srec.cli.parser import known_names
from mllm_srec.cli.schema import full_parser
from mllm_srec.cli.signatures import class_constant, class_names, settings_class

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
CONFIGS = [path for path in CONFIGS if path.parent.name != "sweeps"]
HEAVY = ("torch", "lightning", "transformers", "polars")


def below_free(name, free):
    return any(name.startswith(f"{entry}.") for entry in free)


def names(parser, free):
    """Names that are checked: without those below free ones, and those that Lightning's parsers add for themselves."""
    own = {"help", "h", "print_config", "c"}
    return {name for name in known_names(parser) if not below_free(name, free) and name not in own}


@pytest.mark.parametrize("command", ["prepare", "run", "summarize", "rank", "clean"])
def test_names_are_those_of_the_real_parser(command):
    full = full_parser(command, "")
    for module in (summarize, rank, clean):
        if module.__name__.endswith(command):
            module.add_flags(full)
    quick = early.early_parser(command)
    linked = {"data.backbone", "data.revision", "data.seed", "model.seed"}  # refused later, where a link says why
    assert names(quick, quick.free) - linked == names(full, quick.free) - linked
    assert set(quick.free) >= {"baseline", "trainer.callbacks", "trainer.logger", "trainer.strategy"}
    assert not [name for name in quick.free if name.startswith(("model.", "data.", "prepare.", "summaries."))]


@pytest.mark.parametrize("command", early.METHOD_ARGUMENTS)
def test_names_of_trainer_commands(command, monkeypatch):
    from mllm_srec.cli.commands import trainer

    made = []
    monkeypatch.setattr(trainer.TrainerParser, "parse_args", lambda self, *_, **__: made.append(self) or Namespace())
    with pytest.raises(Exception, match=r"subcommand|Key|config"):  # no settings come back
        trainer.main(command, [])
    (full,) = (action.choices[command] for action in made[0]._actions if command in (action.choices or {}))
    quick = early.early_parser(command)
    own = {"--help", "-h", "--print_config"}
    flags = {option for action in full._actions for option in action.option_strings if option.startswith("-")}
    extra = flags - own - {option for action in quick._actions for option in action.option_strings}
    assert not [
        option for option in extra if option.strip("-+") not in quick.free and not below_free(option[2:], quick.free)
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_of_configs_passes(path):
    early.check_early("fit", ["--config", str(path)])


RIGHT = [
    ["--baseline.init_args.hidden", "3", "--baseline=mllm_srec.baselines.sasrec.SASRec"],
    ["--baseline", "another.package.Model"],
    ["--trainer.callbacks+=LearningRateMonitor", "--trainer.callbacks.logging_interval", "step"],
    ["--trainer.strategy.class_path=DDPStrategy", "--trainer.devices", "[0, 1]", "--trainer.plugins", "null"],
    ["--data.cut_offs+=1", "--data.cut_offs+", "3"],
    ["--data.max_eval_groups", "null", "--data.prompt.cot=True", "--data.n_negatives=5", "--seed_everything=1"],
    ["--model.lr=1e-05", "--model.lora.r=16", "--model.lora", '{"alpha": 3}', "--model.scoring_tokens=64"],
    ["--tracking.tags", '["a", "b"]', "--name", "x", "--ckpt_path", "a.ckpt"],
    ["--summaries.item.generation.max_new_tokens=3", "--prepare.columns.title=name", "--trainer.precision=32"],
]


@pytest.mark.parametrize("arguments", RIGHT, ids=lambda words: words[0])
def test_nothing_right_is_refused(arguments):
    early.check_early("fit", arguments)


SASREC = "--baseline=mllm_srec.baselines.sasrec.SASRec"
WRONG = [
    (["--data.evaluator", "ful"], "data.evaluator='ful': not one of sampled, rerank, full; did you mean 'full'?"),
    (["--model.finetune=Lora"], "model.finetune='Lora': not one of lora, full, none; did you mean 'lora'?"),
    (["--summaries.variant", "svii"], "did you mean 'svi'?"),
    (["--prepare.source", "amazon2013"], "did you mean 'amazon2023'?"),
    (["--data.batch_size", "many"], "data.batch_size='many': not a whole number; give one"),
    (["--data.max_eval_groups", "1.5"], "data.max_eval_groups='1.5': not a whole number or null; give one"),
    (["--model.lr", "1e-3x"], "model.lr='1e-3x': not a number; give one"),
    (["--trainer.max_epochs=ten"], "trainer.max_epochs='ten': not a whole number or null"),
    (["--data.max_eval_groups=None"], "data.max_eval_groups='None': is read as a text; write null, where"),
    (["--name", "None"], "name='None': is read as a text"),
    (["--data.root", "${HOME}/data"], "${HOME} is not replaced in settings; write the value itself"),
    (["--tracking.tags", "a,b"], """tracking.tags='a,b': not a list; write --tracking.tags '["a", "b"]'"""),
    (["--data.cut_offs", "1,5"], """data.cut_offs='1,5': not a list; write --data.cut_offs '[1, 5]'"""),
    (["--data.cut_offs", '["a"]'], "data.cut_offs='a': not a whole number"),
    (["--tracking.tags+=a"], "tracking.tags: takes no += (trainer.callbacks and data.cut_offs do); give the whole"),
    (["--data.batch_size+=3"], "data.batch_size: takes no +="),
    (["--model.lora", "7"], "model.lora='7': has settings of its own; set them one by one, such as --model.lora."),
    (["--baseline", "SASrec"], "baseline='SASrec': no such class; did you mean 'mllm_srec.baselines.sasrec.SASRec'?"),
    (["--baseline.class_path=mllm_srec.baselines.gru4rec.GRU"], "did you mean"),
    ([SASREC, "--baseline.init_args.hiden", "3"], "sasrec.SASRec: 'hiden' is not known; did you mean 'hidden'?"),
    ([SASREC, "--baseline.hidden", "many"], "baseline.hidden='many': not a whole number; give one"),
    ([SASREC, "--baseline.init_args.patience=2", "--baseline.init_args.los=bce"], "did you mean 'loss'?"),
    (["configs/demo.yaml"], "settings are given as flags, here --config configs/demo.yaml"),
    (["--trainer.max_epoch", "3"], "'trainer.max_epoch' is not known; did you mean 'trainer.max_epochs'?"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_is_wrong_is_said_with_the_way_out(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *arguments])
    assert ended.value.code == 2
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.startswith("python -m mllm_srec fit: error: ")
    assert "loading libraries" not in out.err


@pytest.mark.parametrize("arguments", [case[0] for case in WRONG[::3]], ids=lambda words: words[0])
def test_no_library_is_loaded_for_it(arguments):
    code = (
        "import sys; from mllm_srec.__main__ import main\n"
        f"try: main(['fit', *{arguments!r}])\n"
        f"except SystemExit: print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_line_comes_before_the_libraries(capsys, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-m", "mllm_srec", "fit", "--config", str(CONFIGS[0]), "--ckpt_path", "absent.ckpt"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr.readline() == f"mllm_srec fit: {CONFIGS[0]}, loading libraries\n"
    process.kill()
    process.communicate()
    monkeypatch.setenv("RANK", "1")
    early.say_start("fit", [])
    assert capsys.readouterr().err == "", "one process speaks for all"


FILES = {
    "data: {name: a}\nmodel: {lr: 1}\ndata: {root: b}\n": "line 3 is not valid YAML: 'data' is given twice, first",
    "data: {name: a, name: b}\n": "'name' is given twice",
    "data:\n  prompt:\n    cot: true\n    cot: false\n": "line 4 is not valid YAML: 'cot' is given twice",
    "model: {revision: None}\n": "model.revision='None': is read as a text; write null",
    "data: {root: '${DATA}'}\n": "data.root='${DATA}': ${DATA} is not replaced in settings",
    "tracking: {tags: a}\n": """tracking.tags='a': not a list""",
    "baseline: {class_path: mllm_srec.baselines.sasrec.SASRec, init_args: {hiden: 3}}\n": "did you mean 'hidden'?",
    "baseline: {class_path: mllm_srec.baselines.sasrec.SASRek}\n": "did you mean 'mllm_srec.baselines.sasrec.SASRec'?",
    "data: {evaluator: ful}\n": "did you mean 'full'?",
    "baseline: [a]\n": "baseline=['a']: is no baseline; give the name of a class, or class_path and init_args",
    "baseline: 3\n": "baseline=3: is no baseline",
    "baseline: {class_path: 3}\n": "baseline=3: is no baseline",
    "baseline: {class_path: x.Y, init_args: [1]}\n": "is no baseline; give the name of a class",
    "baseline: {class_path: x.Y, init_args: {1: 2}}\n": "is no baseline; give the name of a class",
    "baseline: mllm_srec.baselines.graph_base._Product\n": "no such class",
    "baseline: {class_path: mllm_srec.baselines.sasrec.SASRec, init_args: {lr: 2020-01-01}}\n": "not a number",
    "data:\n  {{NAME}}: a\n": "line 2 is not valid YAML: a key must be a name",
    "? [data, x]\n: a\n": "line 1 is not valid YAML: a key must be a name",
    "data: &all {prompt: *all}\n": "is not valid YAML: Circular reference detected",
    "tracking: 3\n": "tracking=3: has settings of its own; give them below it, such as tracking.",
    "model: {lora: [1]}\n": "model.lora=[1]: has settings of its own; give them below it, such as model.lora.alpha",
}


@pytest.mark.parametrize(("text", "message"), FILES.items(), ids=range(len(FILES)))
def test_what_is_wrong_in_a_file(text, message, tmp_path, capsys):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(path)])
    assert message in capsys.readouterr().err


def test_free_content_of_a_file_is_left_to_the_real_parser(tmp_path):
    path = tmp_path / "free.yaml"
    path.write_text(yaml.safe_dump({
        "baseline": {"class_path": "another.Model", "init_args": {"x": 1}},
        "trainer": {"max_epochs": 1, "callbacks": [{"class_path": "LearningRateMonitor"}], "logger": {"a": 1}},
    }))  # fmt: skip
    early.check_early("fit", ["--config", str(path)])


@pytest.mark.parametrize("name", early.THREADS_WAIT)
def test_waiting_threads_sleep_unless_the_user_said_otherwise(name, monkeypatch):
    for variable in early.THREADS_WAIT:
        monkeypatch.delenv(variable, raising=False)
    early.let_waiting_threads_sleep()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "20000")
    for variable in early.THREADS_WAIT:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, "7")
    early.let_waiting_threads_sleep()
    assert [os.environ.get(variable) for variable in early.THREADS_WAIT].count(None) == 2


def test_threads_are_told_before_torch_is_imported():
    code = (
        "import os, sys; from mllm_srec.__main__ import main; from mllm_srec.cli import early\n"
        "early.say_start = lambda *_: (print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules), sys.exit())\n"
        "main(['fit'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in early.THREADS_WAIT}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "PASSIVE False\n", done.stderr


def test_settings_of_a_baseline_belong_to_the_class_that_is_chosen_last(tmp_path):
    sections = [{"class_path": "a.A", "init_args": {"x": 1}}, {"class_path": "a.B", "init_args": {"y": 2}}]

    def chosen(sections, *typed):
        return early._chosen_baseline([*sections, *early._baseline_flags(typed)])

    assert chosen(sections) == ("a.B", {"y": "2"})
    assert chosen(sections[:1], ("baseline.init_args.z", "3"), ("name", "x")) == ("a.A", {"x": "1", "z": "3"})
    assert chosen(sections, ("baseline", "null")) == (None, {})
    assert chosen([], ("baseline.class_path", "a.A"), ("baseline.x", "1")) == ("a.A", {"x": "1"})
    assert chosen(sections[:1], ("baseline.init_args", "{z: 3}")) == ("a.A", {"x": "1", "z": "3"})
    assert chosen(sections[:1], ("baseline", "{class_path: a.C, init_args: {z: 3}}")) == ("a.C", {"z": "3"})


def test_all_settings_of_a_baseline_may_be_given_at_once(capsys):
    sasrec = ["--baseline", "mllm_srec.baselines.sasrec.SASRec", "--baseline.init_args"]
    early.check_early("fit", [*sasrec, "{hidden: 8}"])
    with pytest.raises(SystemExit):
        early.check_early("fit", [*sasrec, "{hiden: 8}"])
    assert "did you mean 'hidden'?" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "# nothing\n", "model:\n", "model: {lora: }\n", "trainer:\ntracking:\n", "{}\n"])
def test_empty_files_and_sections_say_nothing(text, tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    early.check_early("fit", ["--config", str(path)])
    found, whole = (full_parser("run", "").parse_args(words) for words in (["--config", str(path)], []))
    assert {name: found[name] for name in early.SECTIONS} == {name: whole[name] for name in early.SECTIONS}


def test_a_trial_logs_nothing_so_it_needs_no_key(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(early, "check_tracking", lambda _: pytest.fail("asks for a key"))
    early.check_early("fit", ["--tracking.wandb", "true", "--trainer.fast_dev_run", "true"])
    with pytest.raises(BaseException, match="asks for a key"):
        early.check_early("fit", ["--tracking.wandb", "true"])


def test_a_class_that_is_not_found_is_left_to_the_real_parser(monkeypatch, capsys):
    monkeypatch.setitem(early.SECTIONS, "trainer", ("lightning.moved", "Trainer"))
    early.check_early("fit", ["--trainer.whatever", "3", "--data.batch_size", "2"])
    with pytest.raises(SystemExit):
        early.check_early("fit", ["--trainer.whatever", "3", "--data.batch_sie", "2"])
    assert "did you mean 'data.batch_size'?" in capsys.readouterr().err


def test_help_is_not_looked_at():
    for words in (["--help"], ["-h"], ["--print_config"], ["--trainer.callbacks.help=X", "--wrong"]):
        early.check_early("fit", words)


# --- the pieces ---------------------------------------------------------------------------------------------------


def test_a_class_is_read_with_what_it_hands_on():
    kind = settings_class("mllm_srec.data.loading.prompt_datamodule", "PromptDataModule")
    types = {entry.name: entry.type for entry in kind.__dataclass_fields__.values()}
    assert types["num_workers"] is int, "of the base class"
    assert types["max_eval_groups"] == int | None
    assert types["cut_offs"] == list[int]
    assert set(types["evaluator"].__args__) == {"sampled", "rerank", "full"}
    assert types["pictures"].__dataclass_fields__["max_pixels"].type is int
    with pytest.raises(LookupError, match=r"mllm_srec.types defines no class Nothing"):
        settings_class("mllm_srec.types", "Nothing")


def test_messages_of_other_kinds_stay():
    assert explained("something else", []) == "something else"
    text = 'Parser key "baseline":\n  Expected a path but x. Got value: x'
    assert explained(text, []) == text
    text = "Parser key \"baseline\":\n  Errors:\n    - Option x\n    - Expected a <class 'NoneType'>\n  Given value: y"
    assert explained(text, []) == text


def test_unclear_values_are_found_at_any_depth():
    content = {"a": {"b": {"c": "None"}}, "d": "x${Y.z}", "e": ["None"], "f": "$5 or None", "g": None}
    assert [message.partition(":")[0] for message in unclear_values(content)] == ["a.b.c='None'", "d='x${Y.z}'"]


@pytest.mark.parametrize("path", class_names("mllm_srec.baselines"))
def test_every_baseline_is_read_as_it_is(path):
    module, _, name = path.rpartition(".")
    real = getattr(import_module(module), name)
    if issubclass(real, ItemRecommender):
        assert class_constant(module, name, "needs_features") == real.needs_features
        assert class_constant(module, name, "trained") == real.trained


def test_a_class_whose_base_is_elsewhere_has_no_arguments_that_a_file_tells():
    with pytest.raises(LookupError, match="takes the arguments of a class that no file here defines"):
        settings_class("mllm_srec.baselines.graph_base", "_Product")
    assert class_constant("mllm_srec.baselines.graph_base", "Nothing", "trained") is None
