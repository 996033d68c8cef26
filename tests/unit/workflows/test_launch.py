import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from brainsegfounder.cli import app
from brainsegfounder.errors import OutputExistsError, RunError, UsageError
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows.launch import launch_verb, torchrun_words
from brainsegfounder.workflows.order import Order, Resources
from brainsegfounder.workflows.slurm import _minutes, slurm_script, submit, submit_folds

RECIPE = load_recipe("demo-target")


@pytest.fixture
def order(cohort, tmp_path):
    return Order("pretrain", RECIPE, cohort, tmp_path / "a run; touch x", fold=1)


def words_of(script: str) -> list[str]:
    """What the last command of a script is made of."""
    command = script[script.index("exec srun") :]
    return shlex.split(command.replace("\\\n", " "))


def test_the_script_is_what_bash_and_slurm_read(order):
    resources = Resources(2, 4, 4, 8, "gpu", "1-12:00:00", ("--account=lab",), 3)
    script = slurm_script(order, resources)
    options = {line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line}
    assert {
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=32",
        "--gpus-per-node=4",
        "--partition=gpu",
        "--time=1-12:00:00",
        "--signal=USR1@120",
        "--requeue",
        "--account=lab",
        f'--output="{order.folder}/slurm-%j.out"',
    } <= options
    words = words_of(script)
    assert words[words.index("-m") + 1 :][:3] == [
        "torch.distributed.run",
        "--nproc-per-node=4",
        "--max-restarts=3",
    ]
    assert "--rdzv-backend=c10d" in words
    assert words[words.index("--out") + 1] == str(order.out)
    assert words[words.index("--fold") + 1] == "1"
    assert words[-1] == "--resume"
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_a_name_with_a_shell_command_stays_a_name(order, tmp_path):
    script = slurm_script(order, Resources())
    spoken = script.replace("exec srun", "printf '%s\\n'").replace("set -u", "")
    done = subprocess.run(["bash"], input=spoken, capture_output=True, text=True, cwd=tmp_path)
    assert str(order.out) in done.stdout.splitlines()
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"partition": "gpu\n#SBATCH --uid=0"}, "--partition"),
        ({"partition": "a b"}, "--partition"),
        ({"time": "tomorrow"}, "--time"),
        ({"sbatch": ("--account=lab; rm -r x",)}, "--sbatch"),
        ({"sbatch": ("echo",)}, "--sbatch"),
        ({"nodes": 0}, "--nodes"),
    ],
)
def test_what_slurm_would_read_as_something_else_is_refused(order, changes, option):
    with pytest.raises(UsageError, match=option):
        slurm_script(order, Resources(**changes))


@pytest.mark.parametrize("name", ["a%b", 'a"b', "a\nb", "a\\b"])
def test_a_folder_that_slurm_would_misread_is_refused(cohort, tmp_path, name):
    with pytest.raises(UsageError, match="Choose another --out"):
        slurm_script(Order("pretrain", RECIPE, cohort, tmp_path / name), Resources())


def test_torchrun_runs_the_verb_with_the_recipe_as_it_is_now(order):
    words = torchrun_words(order, Resources(processes_per_node=2))
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert {"--nproc-per-node=2", "--standalone"} <= set(words)
    assert str(order.saved_recipe) in words
    assert "--resume" not in words


def test_every_option_of_the_verb_reaches_the_processes(cohort, tmp_path):
    values = {"recipe": "demo-target", "overrides": [], "data": cohort, "out": tmp_path / "run"}
    values |= {"start": None, "fold": 2, "resume": True, "may_change": ["pretrain.num_workers"]}
    values |= {"participants": tmp_path / "people.tsv", "tensorboard": True, "plan": False}
    told = launch_verb("torchrun", "pretrain", values, Resources(), dry_run=True)
    words = shlex.split(told)
    assert words[words.index("--fold") + 1] == "2"
    assert words[words.index("--participants") + 1] == str(tmp_path / "people.tsv")
    assert {"--resume", "--tensorboard"} <= set(words)
    assert "--allow-config-change=pretrain.num_workers" in words


def test_a_plan_is_not_launched():
    with pytest.raises(UsageError, match="--plan: trains nothing"):
        launch_verb("slurm", "pretrain", {"plan": True}, Resources())


def test_several_nodes_are_not_for_torchrun(order):
    with pytest.raises(UsageError, match="--nodes 1"):
        torchrun_words(order, Resources(nodes=2))


def test_a_run_that_is_there_is_not_submitted_again(order):
    order.out.mkdir()
    (order.out / "recipe.resolved.yaml").write_text("")
    with pytest.raises(OutputExistsError, match="--resume"):
        submit(order, Resources())


def test_without_slurm_the_job_is_written_and_the_message_says_how(order, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="sbatch: not found"):
        submit(order, Resources())
    assert (order.folder / "job.sh").read_text() == slurm_script(order, Resources())
    assert load_recipe(order.saved_recipe) == RECIPE


def test_what_slurm_says_against_a_job_is_told(order, monkeypatch, tmp_path):
    fake = tmp_path / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    with pytest.raises(RunError, match="invalid partition"):
        submit(order, Resources())


def test_folds_take_the_start_of_the_same_fold(cohort, tmp_path):
    for fold in (0, 1):
        (tmp_path / "stage2" / f"fold-{fold}").mkdir(parents=True)
    order = Order("finetune", RECIPE, cohort, tmp_path / "out", start=tmp_path / "stage2")
    assert order.of_fold(1).start == tmp_path / "stage2" / "fold-1"
    assert order.of_fold(2).start == tmp_path / "stage2"
    assert order.of_fold(1).out == tmp_path / "out" / "fold-1"


@pytest.mark.parametrize("folds", [[], [0, 0], [3], [-1]])
def test_folds_that_are_not_there_are_refused(cohort, tmp_path, folds):
    order = Order("finetune", RECIPE, cohort, tmp_path / "out")
    with pytest.raises(UsageError, match="different numbers from 0 to 2"):
        submit_folds(order, folds, Resources(time="60"))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("1:30", 2), ("02:00:00", 120), ("1-0", 1440), ("1-02:30", 1590), ("0-0:0:1", 1)],
)
def test_a_time_limit_is_read_as_slurm_reads_it(time, minutes):
    assert _minutes(time) == minutes


def test_an_unknown_launcher_is_refused():
    with pytest.raises(UsageError, match="expected local, torchrun or slurm"):
        launch_verb("mpi", "pretrain", {}, Resources())


def test_a_dry_run_prints_the_script_and_writes_nothing(cohort, tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", "demo-target", "--data", str(cohort), "--out", str(out)]
    done = CliRunner().invoke(app, [*words, "--launch", "slurm", "--nodes", "2", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("#!/bin/bash")
    assert "#SBATCH --nodes=2" in done.output
    assert list(tmp_path.iterdir()) == []
