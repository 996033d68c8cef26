"""A plan of pretraining: measured steps, and numbers that follow from each other."""

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brainsegfounder.cli import app
from brainsegfounder.errors import UsageError
from brainsegfounder.models.ssl_heads import SSLNetwork
from brainsegfounder.recipes import load_recipe
from brainsegfounder.workflows import plan_here
from brainsegfounder.workflows.plan import Plan, Prices, make_plan
from brainsegfounder.workflows.plan_gpus import FLOP_PER_S
from brainsegfounder.workflows.plan_text import duration, plan_lines

SMALL = ["model.scale=nano", "pretrain.patch_size_vox=[64,64,64]"]


@pytest.fixture(scope="module")
def paper() -> Plan:
    recipe = load_recipe("paper-stage1", [*SMALL, "pretrain.crops_per_case=1"])
    return make_plan(recipe, subjects=41_400, utilisation=0.1, prices=Prices(2.0, 0.5))


def test_the_papers_batch_is_128_on_every_number_of_gpus(paper: Plan) -> None:
    assert [(row.num_gpus, row.accumulation, row.cases_per_step) for row in paper.gpus] == [
        (1, 64, 128),
        (8, 8, 128),
        (64, 1, 128),
    ]


def test_gpu_hours_follow_from_the_operations_and_the_utilisation(paper: Plan) -> None:
    one, eight, many = paper.gpus
    assert eight.hours == pytest.approx(one.hours / 8)
    assert many.hours == pytest.approx(one.hours / 64)
    flop_per_s = FLOP_PER_S["bfloat16"] * 0.1
    flop_per_case = one.step_s * flop_per_s / 128
    assert f"{flop_per_case / 1e9:,.0f} GFLOP for each crop" in paper.assumptions[1]
    assert one.hours == pytest.approx(15_000 * 128 * flop_per_case / flop_per_s / 3600)
    assert [row.cost for row in paper.gpus] == pytest.approx([2.0 * one.hours] * 3)


def test_this_machine_is_measured_over_three_steps_after_the_first(paper: Plan) -> None:
    assert paper.here is not None
    assert paper.here.crops == "noise"
    assert len(paper.here.step_s) == 3
    assert min(paper.here.step_s) > 0
    median = sorted(paper.here.step_s)[1]
    assert paper.here.hours == pytest.approx(15_000 * median / 3600)
    assert paper.here.cost == pytest.approx(0.5 * paper.here.hours)
    assert paper.here.peak_memory_gib > 0.1


def test_the_run_is_counted_in_steps_cases_parameters_and_disk(paper: Plan) -> None:
    network = SSLNetwork(2, "nano")
    learnt = sum(p.numel() for p in network.parameters())
    assert (paper.num_parameters, paper.steps, paper.samples) == (learnt, 15_000, 30_000)
    # Three checkpoints (weights and two moments) and the model.
    assert 10 * 4 * learnt <= paper.checkpoints_gib * 2**30 <= 11 * 4 * learnt + 4 * 8e6 * 8
    assert paper.store_gib == pytest.approx(41_400 * 2 * 2 * 182 * 218 * 182 / 2**30)


def test_every_assumption_and_omission_is_printed(paper: Plan) -> None:
    text = "\n".join(plan_lines(paper))
    assert [sentence for sentence in paper.assumptions if sentence not in text] == []
    assert [part for part in paper.not_included if part not in text] == []
    assert "10.0% is used: as given" in text


def test_a_store_is_read_from_and_its_size_is_scaled(cohort: Path, monkeypatch) -> None:
    sets = ["pretrain.batch_size=1", "pretrain.crops_per_case=1", SMALL[1]]
    recipe = load_recipe("demo-target", sets)
    few = make_plan(recipe, data=cohort, fold=0, gpus=[2])
    monkeypatch.setattr(plan_here, "available_memory_gib", lambda: 0.0)
    many = make_plan(recipe, data=cohort, fold=0, gpus=[2], subjects=100 * few.subjects)
    assert few.here is not None
    assert few.here.crops == "store"
    assert min(few.here.wait_s) > 0
    on_disk = sum(path.stat().st_size for path in (cohort / "cases").iterdir())
    assert few.store_gib * 2**30 == pytest.approx(on_disk, rel=0.2)
    assert many.store_gib == pytest.approx(100 * few.store_gib)
    assert (few.gpus[0].cases_per_step, few.gpus[0].cost) == (2, None)


def test_without_a_utilisation_it_is_what_memory_allows(monkeypatch) -> None:
    monkeypatch.setattr(plan_here, "available_memory_gib", lambda: 0.0)
    plan = make_plan(load_recipe("paper-stage1", SMALL), subjects=10, gpus=[1])
    assert plan.here is None
    assert "the smaller of 30% and what memory of 3.35 TB/s allows" in plan.assumptions[2]
    assert "a step does not fit its memory" in "\n".join(plan_lines(plan))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither --data nor --subjects"),
        ({"subjects": 3, "utilisation": 1.5}, "--utilisation 1.5"),
        ({"subjects": 3, "gpus": [0]}, "expected numbers of GPUs from 1 on"),
    ],
)
def test_impossible_wishes_are_refused_before_anything_is_timed(given, message) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan(load_recipe("paper-stage1", SMALL), **given)


def test_the_verb_prints_for_machines_and_writes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan_here, "available_memory_gib", lambda: math.inf)
    monkeypatch.setattr(plan_here, "NUM_TIMED", 1)
    sets = [part for value in (*SMALL, "pretrain.batch_size=1") for part in ("--set", value)]
    wanted = ["--plan", "--subjects", "7", "--gpus", "1,4", "--price-per-gpu-hour", "2", "--json"]
    done = CliRunner().invoke(app, ["pretrain", "paper-stage1", *wanted, *sets])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert (record["subjects"], [row["num_gpus"] for row in record["gpus"]]) == (7, [1, 4])
    assert list(tmp_path.iterdir()) == []


def test_training_itself_still_needs_a_store_and_a_folder() -> None:
    done = CliRunner().invoke(app, ["pretrain", "paper-stage1"])
    assert done.exit_code == 2
    assert "--data and --out" in done.output


@pytest.mark.parametrize(
    ("hours", "text"), [(0.25, "15.0 minutes"), (30.0, "30.0 hours"), (96.0, "4.0 days")]
)
def test_durations_are_in_the_unit_that_suits_them(hours, text) -> None:
    assert duration(hours) == text
