"""What the paper's figures of a run are made of: their sources, plots and rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from heedful.figures import Row, groups, rows_of
from heedful.plots import Dot, dot_plot, dots_of
from heedful.shown import Formatter, percent_text


@dataclass(frozen=True, slots=True)
class PaperFigure:
    """A figure of the paper, for this run; without plots where the run has not measured it."""

    number: int
    title: str
    note: str  # where it departs from the paper's
    command: str  # what made the numbers, or would make them
    plots: Sequence[str] = ()  # HTML
    rows: Sequence[Row] = ()  # of its table file
    needs: str = ""  # beside the command, where there are no plots
    file: str = ""  # the name of its files without ending; by its number where empty

    @property
    def name(self) -> str:
        """Of its files, without ending."""
        return self.file or f"figure-{self.number}"


@dataclass(frozen=True, slots=True)
class Source:
    """A file of results, and the command that made it."""

    place: str
    found: Row
    command: str

    def rows(self, key: str) -> list[Row]:
        """The rows of a field."""
        return rows_of(self.found.get(key))


@dataclass(slots=True)
class Drawn:
    """The plots of a figure and its rows, as they come."""

    plots: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    def dots(
        self,
        source: Source,
        title: str,
        dots: Sequence[Dot],
        *,
        x_label: str,
        reference: float | None = None,
        include: Sequence[float] = (),
        format: Formatter = percent_text,
    ) -> None:
        """Adds a dot plot where there are dots."""
        if dots:
            plot = dot_plot(
                title, dots, x_label=x_label, reference=reference, include=include, format=format
            )
            rows = [
                {"panel": title, "name": dot.name, "series": dot.series, **numbers(dot)}
                for dot in dots
            ]
            self.add(source, plot, rows)

    def add(self, source: Source, plot: str, rows: Sequence[Row]) -> None:
        self.plots.append(plot)
        self.rows += rows
        if source.command not in self.commands:
            self.commands.append(source.command)

    def figure(self, number: int, title: str, note: str, missing: str) -> PaperFigure:
        command = "\n".join(self.commands) if self.plots else missing
        return PaperFigure(number, title, note, command, self.plots, self.rows)


def numbers(dot: Dot) -> dict[str, float | None]:
    return {"value": dot.value, "low": dot.low, "high": dot.high}


def by_model(rows: Iterable[Row], series: str = "") -> list[Dot]:
    return dots_of(((str(row.get("model", "?")), row) for row in rows), series)


def flat(row: Row) -> Row:
    """A measure of heed eval with its interval's numbers beside its names."""
    interval = row.get("interval")
    return {"model": row.get("model"), **(interval if isinstance(interval, dict) else {})}


def nlp_measures(source: Source) -> Iterable[tuple[str, Sequence[Row], bool | None]]:
    """(measure, its rows by model, whether higher is better) of a summary or of heed eval nlp."""
    for row in source.rows("tax"):
        models = [
            {"model": key.replace("_", "-"), **value}
            for key, value in row.items()
            if isinstance(value, dict)
        ]
        yield str(row.get("metric", "?")), models, row.get("higher_is_better")
    for task, of_task in groups(source.rows("measures"), "task").items():
        for variant, rows in groups(of_task, "variant").items():
            first = str(rows[0].get("metric"))  # the metric that the paper has for the task
            chosen = [row for row in rows if row.get("metric") == first]
            better = chosen[0].get("higher_is_better")
            yield f"{task}, {first}, {variant}", [dict(flat(row)) for row in chosen], better


def plain(name: str) -> str:
    """A model's name for comparing: "PPO_ptx" is "ppo-ptx"."""
    return name.strip().lower().replace("_", "-")
