"""Which series stands for a contrast where several could: the larger one, and it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brainsegfounder.errors import Problem
from brainsegfounder.settings import ReadingSettings
from brainsegfounder.volumes.dicom.series import Stack
from brainsegfounder.volumes.findings import Finding

USUAL_B_VALUE = 1000.0
Refusal = tuple[str, Problem]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sound stack that could stand for a contrast of a case."""

    name: str
    case: str
    contrast: str
    stack: Stack

    @property
    def echo_ms(self) -> float:
        """Its echo time, or 0."""
        return self.stack.first.tags.echo_time_ms or 0.0


def ranked(
    candidates: Sequence[Candidate], reading: ReadingSettings
) -> tuple[list[Candidate], list[Refusal], list[Finding]]:
    """Candidates for one contrast of one case, the best first.

    Original images come before reformatted ones, volumes before stacks of slices, more slices
    before fewer, b-values near 1000 before others, then the scanner's order. Echoes of one series
    are not ranked: `reading.volume` chooses, or they are refused.

    Returns:
        Those that may be converted, those refused, and what was found.
    """
    left, refused = _one_echo(candidates, reading)
    order = sorted(left, key=_rank)
    if len(order) < 2:
        return order, refused, []
    listed = "; ".join(f"{one.name} ({_size(one)})" for one in order)
    first, second = order[:2]
    tied = _rank(first)[:-1] == _rank(second)[:-1]
    why = "they are equals, and it is the first" if tied else "the most original and complete"
    message = (
        f"{len(order)} series could be {first.contrast}: {listed}; taken: {first.name} ({why})"
    )
    finding = Finding("dicom_several_series", first.case, message, "warning")
    return order, refused, [finding]


def _one_echo(
    candidates: Sequence[Candidate], reading: ReadingSettings
) -> tuple[list[Candidate], list[Refusal]]:
    """Of each series one echo."""
    series: dict[tuple[str, str, str], list[Candidate]] = {}
    for candidate in candidates:
        series.setdefault(candidate.stack.series, []).append(candidate)
    left: list[Candidate] = []
    refused: list[Refusal] = []
    for parts in series.values():
        echoes = sorted({part.echo_ms for part in parts})
        if len(echoes) == 1:
            left += parts
        elif reading.volume is not None and reading.volume < len(echoes):
            left += [part for part in parts if part.echo_ms == echoes[reading.volume]]
        else:
            refused += [(part.name, _several_echoes(part.name, echoes)) for part in parts]
    return left, refused


def _several_echoes(name: str, echoes_ms: Sequence[float]) -> Problem:
    listed = ", ".join(f"{number}: {ms:g} ms" for number, ms in enumerate(echoes_ms))
    return Problem(
        "dicom_several_echoes",
        name,
        f"one of {len(echoes_ms)} echoes of one series and contrast ({listed})",
        "one echo",
        "Choose one with the reading option `volume`, counted from 0.",
        "EchoTime",
    )


def _rank(one: Candidate) -> tuple[float, ...]:
    header, tags = one.stack.first.header, one.stack.first.tags
    kinds = {kind.strip().upper() for kind in tags.image_type}
    return (
        bool(kinds & {"DERIVED", "SECONDARY", "MPR", "REFORMATTED"}),
        tags.acquisition_type != "3D",
        -len(one.stack.slices),
        abs((tags.b_value or USUAL_B_VALUE) - USUAL_B_VALUE),
        header.series_number or 0,
    )


def _size(one: Candidate) -> str:
    kind = one.stack.first.tags.acquisition_type
    return f"{len(one.stack.slices)} slices{f', {kind}' if kind in ('2D', '3D') else ''}"
