"""Watching a pretraining run: probes and pictures at some of its steps, and its page.

A failure here is told and never ends the run; what it costs is bounded (see `COST_SHARE` and
`PAGE_SHARE`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn

from brainsegfounder.settings import PretrainSettings
from brainsegfounder.training.checkpoint import TrainingState
from brainsegfounder.training.loop import Record
from brainsegfounder.workflows.pretrain_page import write_pretrain_page
from brainsegfounder.workflows.pretrain_pictures import take_pictures
from brainsegfounder.workflows.pretrain_probe import Probed, probe, probe_steps
from brainsegfounder.workflows.stage import Stage
from brainsegfounder.workflows.trackers import undisturbed

SECONDS_BETWEEN_PAGES = 30.0
# Writing the page may take this share of the time.
PAGE_SHARE = 0.02


class Watcher:
    """Looks at a run while it trains; see `training.loop.Job.watch`.

    Args:
        stage: The run.
        settings: Its section of the recipe.
        probed: Whose features are looked at.
        record: Where probes are recorded.
    """

    def __init__(
        self,
        stage: Stage,
        settings: PretrainSettings,
        probed: Probed,
        record: Callable[[Record], None],
    ) -> None:
        self._stage = stage
        self._settings = settings
        self._probed = probed
        self._record = record
        self._due = set(probe_steps(settings.steps, settings.validate_every))
        # Blocks that are spread over processes cannot be asked by one of them.
        self._can_look = settings.sharding == "none"
        self._next_page_s = 0.0
        self.state: TrainingState | None = None

    def __call__(self, network: nn.Module, state: TrainingState, stop: Callable[[], bool]) -> None:
        """Look, where this step is due for it, and keep the page up to date."""
        self.state = state
        if self._can_look and state.step in self._due and not stop():
            self._look(network, state.step, stop)
        if time.monotonic() >= self._next_page_s and not stop():
            self.write_page(state)

    def write_page(self, state: TrainingState, ended: str = "") -> None:
        """Write the page, and plan the next time for it.

        Args:
            state: Where the run stands.
            ended: How it ended, as a sentence; empty while it runs.
        """
        began_s = time.monotonic()
        with undisturbed("the page could not be written"):
            write_pretrain_page(self._stage, self._settings, state, self._probed, ended)
        cost_s = time.monotonic() - began_s
        self._next_page_s = began_s + max(SECONDS_BETWEEN_PAGES, cost_s / PAGE_SHARE)

    def _look(self, network: nn.Module, step: int, stop: Callable[[], bool]) -> None:
        with undisturbed("no pictures of this step"):
            take_pictures(network, self._stage, self._settings, step)
        with undisturbed("no probe of this step"):
            found = probe(network, self._stage, self._probed, self._settings, step, stop)
            if found is not None:
                self._record(found)
