"""What every training stage does around the loop: start weights, folders, fingerprints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from brainsegfounder.data.loader import Batch, PatchDataset, PatchSampling, batches
from brainsegfounder.data.quarantine import QUARANTINE_NAME, Quarantine
from brainsegfounder.data.splits import Split, split_cases
from brainsegfounder.data.store import Store, StoredCase, check_store, open_store
from brainsegfounder.distributed import largest, num_processes, rank, wait, world
from brainsegfounder.errors import RecipeError, UsageError
from brainsegfounder.files import sha256
from brainsegfounder.inference.model_config import WEIGHTS_NAME, ModelConfig, config_of, read_config
from brainsegfounder.models.decoder_transfer import load_decoder
from brainsegfounder.models.weights import LoadReport, load_encoder, load_state
from brainsegfounder.runs import Run, open_run, progress, write_provenance
from brainsegfounder.settings import OURS, Recipe, StageSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import Job, LossFunction, Record, Validation, Watch, train
from brainsegfounder.workflows.model_folder import (
    INHERITED,
    build_network,
    check_sums,
    choose_device,
    model_folder,
    place,
    save_model,
)

SectionT = TypeVar("SectionT")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that is ready to be trained.

    Attributes:
        recipe: What to do.
        settings: Its section of the recipe.
        store: The data.
        split: Who is trained on.
        run: Where results go.
        config: Of the model it makes.
        network: On the device, with start weights in it.
        device: Where to compute.
        identity: Hashes of recipe, data, split and start weights.
        transfer: What was loaded from the start weights, or None from scratch.
    """

    recipe: Recipe
    settings: StageSettings
    store: Store
    split: Split
    run: Run
    config: ModelConfig
    network: nn.Module
    device: torch.device
    identity: Mapping[str, str | None]
    transfer: LoadReport | None

    def cases(self, subjects: Sequence[str], *, labelled: bool = False) -> list[StoredCase]:
        """The stored cases of some subjects, all or only those with a mask."""
        chosen = set(subjects)
        return [
            case
            for case in self.store.cases
            if case.subject in chosen and (case.has_labels or not labelled)
        ]


def open_stage(
    recipe: Recipe,
    settings: StageSettings,
    kind: Literal["segmentation", "pretraining"],
    *,
    data: Path,
    out: Path,
    start: Path | None,
    fold: int | None,
    resume: bool,
    may_change: Collection[str] = (),
) -> Stage:
    """Check everything that can be checked before training, then make the run's folder.

    Args:
        recipe: The whole recipe.
        settings: The stage's section.
        kind: Of the model that this stage makes.
        data: The store.
        out: The run's folder.
        start: A run or model folder whose encoder is the start, or None for random weights.
        fold: Which fold is held out, or None for the test subjects the recipe names.
        resume: Go on in `out`.
        may_change: Fields of the recipe that may be other than `out` was started with.

    Raises:
        StoreError: The store does not fit the recipe.
        WeightsError: The start weights do not fit.
        UsageError: The start weights have seen a scan that is held out here.
        OutputExistsError: `out` has content and `resume` is off.
    """
    store = open_store(data)
    check_store(store, recipe)
    split = split_of(store, recipe, fold)
    recipe = _inherit_merging(recipe, start)
    torch.manual_seed(recipe.seed)
    make_config = partial(config_of, recipe, kind)
    network = build_network(make_config({}), recipe.model)
    channels = make_config({}).channels
    transfer, start_facts = _transfer(network, channels, recipe, settings, start)
    _check_unseen(store, split.test, start_facts, start)
    run = _open(out, recipe, resume=resume, may_change=may_change)
    identity = {
        "recipe": run.recipe_sha256,
        "manifest": store.manifest_sha256,
        "split": split.sha256,
        "start": start_facts.get("weights_sha256"),
    }
    device = choose_device()
    facts = {"device": device_name(device), "seed": recipe.seed, "sha256": identity, "fold": fold}
    if fold is not None:
        facts["folds_from"] = split.folds_from
    facts |= {"processes": num_processes()}
    if run.changes:
        facts["recipe_changes"] = list(run.changes)
    is_main = rank() == 0
    travelling = _write_facts(run, facts, store, split, start_facts) if is_main else {}
    return Stage(
        recipe=recipe,
        settings=settings,
        store=store,
        split=split,
        run=run,
        config=make_config(travelling),
        network=place(network, device),
        device=device,
        identity=identity,
        transfer=transfer,
    )


def _open(out: Path, recipe: Recipe, *, resume: bool, may_change: Collection[str]) -> Run:
    """Make or reopen a run's folder: the main process does, and the others find it there."""
    # Where all processes are started again after one failed, it is this very run that goes on.
    # On several machines only the launcher on that of the failed process has counted it.
    resume = resume or largest(world().attempt) > 0
    if rank() == 0:
        run = open_run(out, recipe, resume=resume, may_change=may_change)
    wait()
    return run if rank() == 0 else Run(out)


def _write_facts(
    run: Run, facts: dict[str, Any], store: Store, split: Split, start_facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the run's provenance; give what of it travels with the weights.

    That names no subject and no folder.
    """
    seen = _fingerprints(store, (*split.train, *split.validation))
    of_start = {k: v for k, v in start_facts.items() if k not in ("seen_scans", "inherited")}
    facts = {
        **facts,
        "threads": torch.get_num_threads(),
        "start": of_start or "random weights",
        "seen_scans": sorted(seen.union(start_facts.get("seen_scans", ()))),
        **start_facts.get("inherited", {}),
    }
    names = {
        "train_subjects": list(split.train),
        "validation_subjects": list(split.validation),
        "test_subjects": list(split.test),
        "choices": {"best_model": "validation_subjects" if split.validation else "the last step"},
    }
    written = write_provenance(run, {**facts, **names})
    return {key: written[key] for key in (*facts, "started", "versions", "code")}


def run_stage(
    stage: Stage,
    *,
    sampling: PatchSampling,
    cases: Sequence[StoredCase],
    loss: LossFunction,
    validation: Validation | None,
    what: str,
    record: Callable[[Record], None] | None = None,
    watch: Watch = lambda *_: None,
) -> TrainingState:
    """Train a stage to its end, keeping its best model in the run's `model` folder.

    Records go into the run's `metrics.jsonl`, unless `record` takes them; for `watch` see `Job`.
    """
    settings, recipe = stage.settings, stage.recipe
    dataset = PatchDataset(stage.store, cases, recipe.data.contrasts, sampling, recipe.seed)
    # What another process cannot read, it lists by itself.
    listed = QUARANTINE_NAME if rank() == 0 else f"process-{rank()}.{QUARANTINE_NAME}"
    quarantine = Quarantine(len(cases), stage.run.folder / listed)

    def source(first_sample: int) -> Iterator[Batch]:
        return batches(
            dataset,
            first_batch=0,
            # More than are left of a resumed run, which takes no more than it needs.
            num_batches=settings.steps * settings.optimizer.accumulation,
            batch_size=settings.batch_size,
            num_workers=settings.num_workers,
            first_sample=first_sample,
            rank=rank(),
            num_processes=num_processes(),
            quarantine=quarantine,
        )

    with progress(settings.steps, what, shown=rank() == 0) as report:
        job = Job(
            settings=settings,
            seed=recipe.seed,
            loss=loss,
            batches=source,
            validation=validation,
            checkpoints=stage.run.checkpoints,
            bad_batches=stage.run.bad_batches,
            resumed=stage.run.rewind,
            identity=stage.identity,
            record=record or stage.run.record,
            keep_best=lambda network, _: save_model(stage.run.model, network, stage.config),
            advance=lambda step, value: report(step, f"loss {value:.3f}"),
            watch=watch,
        )
        return train(stage.network, job, stage.device)


def finish(run: Run, state: TrainingState) -> None:
    """Mark a run as done, with how it ended."""
    run.finish(
        {
            "steps": state.step,
            "best_step": state.best_step,
            "best_value": state.best_value,
            "training_s": state.elapsed_s,
        }
    )


def require(section: SectionT | None, recipe: Recipe, name: str) -> SectionT:
    """The section of a recipe that a verb needs.

    Raises:
        RecipeError: The recipe has none.
    """
    if section is None:
        raise RecipeError(
            f"{recipe.name}: no `{name}` section; expected one. "
            "Add it, or choose a recipe that has one: brainsegfounder recipe list"
        )
    return section


def device_name(device: torch.device) -> str:
    """What computes, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, threads: {torch.get_num_threads()}"


def _fingerprints(store: Store, subjects: Sequence[str]) -> set[str]:
    """Fingerprints of every scan of some subjects."""
    chosen = set(subjects)
    return {print_ for c in store.cases if c.subject in chosen for print_ in c.fingerprints}


def _check_unseen(
    store: Store, test: Sequence[str], start_facts: Mapping[str, Any], start: Path | None
) -> None:
    """Refuse start weights that have seen a scan held out here."""
    seen = set(start_facts.get("seen_scans", ()))
    leaked = [subject for subject in test if seen & _fingerprints(store, [subject])]
    if leaked:
        raise UsageError(
            f"{start}: has seen {len(leaked)} of {len(test)} held-out subjects "
            f"({', '.join(leaked[:3])}); expected none, or their scores would be worthless. "
            "Pretrain on this fold (pretrain --fold), or hold out others."
        )


def split_of(store: Store, recipe: Recipe, fold: int | None) -> Split:
    """Who is trained on, who chooses and who is tested; see `split_cases`.

    Raises:
        DataError: The folds cannot be made of these cases, or nobody is left to train on.
        UsageError: The fold does not exist.
    """
    return split_cases(included(store, recipe), recipe.split, fold)


def included(store: Store, recipe: Recipe) -> list[StoredCase]:
    """The cases of a store that a recipe does not exclude."""
    excluded = set(recipe.data.exclude_subjects)
    return [case for case in store.cases if case.subject not in excluded]


def _inherit_merging(recipe: Recipe, start: Path | None) -> Recipe:
    """Merge patches as the start weights were trained to; shapes would not tell a difference."""
    if start is None:
        return recipe
    merging = read_config(model_folder(start)).merging
    if merging == recipe.model.merging:
        return recipe
    log.info("merging %s, as %s was trained, instead of %s", merging, start, recipe.model.merging)
    model = recipe.model.model_copy(update={"merging": merging})
    return recipe.model_copy(update={"model": model})


def _check_transferable(recipe: Recipe, config: ModelConfig, folder: Path) -> None:
    """What moves on is our encoder; a baseline neither has nor takes one."""
    if (config.architecture, recipe.model.architecture) != (OURS, OURS):
        raise UsageError(
            f"--from {folder}: a {config.architecture}, for a {recipe.model.architecture}; "
            f"expected {OURS} for {OURS}, whose encoder is all that can be taken over. Leave out "
            "--from to train a baseline from random weights."
        )


def _transfer(
    network: nn.Module,
    channels: Sequence[str],
    recipe: Recipe,
    settings: StageSettings,
    start: Path | None,
) -> tuple[LoadReport | None, dict[str, Any]]:
    if start is None:
        return None, {}
    folder = model_folder(start)
    check_sums(folder)
    config = read_config(folder)
    _check_transferable(recipe, config, folder)
    weights = folder / WEIGHTS_NAME
    if config.provenance.get("trained_on"):
        log.warning(
            "%s has seen %s; scores on scans of these are worthless",
            config.name,
            ", ".join(config.provenance["trained_on"]),
        )
    state = load_state(weights)
    report = load_encoder(
        network,
        state,
        source_contrasts=config.channels,
        target_contrasts=channels,
        source_merging=config.merging,
        new_contrast=settings.new_contrast,
        generator=torch.Generator().manual_seed(recipe.seed),
        source=str(weights),
    )
    kept: tuple[str, ...] = ()
    if settings.transfer == "encoder+decoder":
        kept = load_decoder(
            network,
            state,
            source_contrasts=config.channels,
            target_contrasts=channels,
            source=str(weights),
        )
    facts = {
        "name": config.name,
        "transfer": settings.transfer,
        "initial_in_decoder": list(kept),
        "weights_sha256": sha256(weights),
        "trained_on": config.provenance.get("sha256", config.provenance.get("trained_on", {})),
        "seen_scans": config.provenance.get("seen_scans", []),
        "inherited": {key: config.provenance[key] for key in INHERITED if key in config.provenance},
        "report": {key: value for key, value in report.to_json().items() if key != "source"},
    }
    return report, facts
