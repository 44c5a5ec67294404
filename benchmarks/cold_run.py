"""What `mlops run` costs from nothing, where its time goes, and what the same command costs again.

Each round has a folder of its own: cold, then unchanged. The cold run goes through `inside/attribution.py`, a clock
around the library's own calls that costs some milliseconds; all else is the plain command. CPU is that of the process
and its ended children, the JVM too; memory is that of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inside.attribution import GX, LEARNING, SPARK
from benchmarks.measuring import (
    GB,
    LIMITED,
    MLOPS,
    NO_GATES,
    PIPELINE,
    Measured,
    environment,
    limited,
    measure,
    say,
    say_machine,
    say_table,
    spread,
    workplace,
)

WALL_S, PEAK_GB, OTHER_S, AGAIN_S, HELP_S = 150, 6, 10, 3, 0.3
THEIRS = (SPARK, GX, LEARNING)
HELP_RUNS = 5


@dataclass(frozen=True)
class Round:
    """One cold run and the same again."""

    cold: Measured
    again: Measured
    seconds: dict[str, float]
    """Of the cold run, by whose they are; they sum to its wall time."""
    cpu: dict[str, float]
    """Of these, the main thread's CPU: what other work on the machine hardly changes."""
    stages: dict[str, Any]
    unused: list[str]

    @property
    def other_s(self) -> float:
        """What is neither Spark's, Great Expectations' nor the fitting's."""
        return self.cold.wall_s - sum(self.seconds.get(name, 0) for name in THEIRS)


def run_round(folder: Path, arguments: list[str]) -> Round:
    """Run cold, then again. Raises: BenchmarkError."""
    env, clock = environment(folder), folder / "clock.json"
    command = [*MLOPS, "run", PIPELINE, *arguments, "--json"]
    timed = [sys.executable, "-m", "benchmarks.inside.attribution", str(clock), *command[len(MLOPS) :]]
    cold = measure(timed, env=env, cwd=folder)
    again = measure(command, env=env, cwd=folder)
    charged = json.loads(clock.read_text())
    seconds = charged["seconds"]
    seconds["start and end of the interpreter"] = cold.wall_s - sum(seconds.values())
    return Round(cold, again, seconds, charged["cpu"], json.loads(cold.out)["stages"], charged["unused"])


def say_rounds(rounds: list[Round], helps: list[float]) -> None:
    """Print the tables."""
    say_table(
        LIMITED,
        [
            limited("cold, wall", [r.cold.wall_s for r in rounds], WALL_S, digits=1),
            limited("cold, peak memory", [r.cold.peak_bytes / GB for r in rounds], PEAK_GB, " GB"),
            limited("cold, all but Spark, Great Expectations and fitting", [r.other_s for r in rounds], OTHER_S, digits=1),
            limited("the same again, wall", [r.again.wall_s for r in rounds], AGAIN_S),
            limited("`mlops --help`, wall", helps, HELP_S, digits=3),
        ],
    )
    say(f"CPU of the cold run: {spread([r.cold.cpu_s for r in rounds], digits=0)}; ")
    say(f"again: {spread([r.again.cpu_s for r in rounds])}.\n")
    names = sorted(rounds[0].seconds, key=lambda n: (n not in THEIRS, -rounds[0].seconds[n]))
    measured = [[r.seconds for r in rounds], [r.cpu for r in rounds]]
    parts = [[n, "" if n in THEIRS else "yes", *(spread([of.get(n, 0.0) for of in each]) for each in measured)] for n in names]
    say_table(("cold run: time inside", "counts as other", "median (least to greatest)", "CPU of the main thread"), parts)
    per_stage = [[n, spread([r.stages[n]["seconds"] for r in rounds])] for n in rounds[0].stages]
    say_table(("cold run: stage", "median (least to greatest)"), per_stage)
    if rounds[0].unused:
        say(f"Never called under these names, so charged to nobody: {', '.join(rounds[0].unused)}.\n")
    say("Notes of the run that was repeated unchanged:\n")
    say("```\n" + rounds[-1].again.err.strip() + "\n```\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--start", default="2013-01-01")
    parser.add_argument("--end", default="2013-07-01")
    parser.add_argument("--no-gates", action="store_true", help="deploy whatever was trained: for short ranges")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `mlops run`")
    chosen = parser.parse_args()
    arguments = ["--start", chosen.start, "--end", chosen.end]
    arguments += [part for text in [*chosen.set, *(NO_GATES if chosen.no_gates else ())] for part in ("--set", text)]
    say_machine(f"mlops run {PIPELINE} {' '.join(arguments)}")
    with workplace() as folder:
        helps = [measure([*MLOPS, "--help"], env=environment(folder), cwd=folder).wall_s for _ in range(HELP_RUNS + 1)]
        rounds = [run_round(folder / f"round{n}", arguments) for n in range(chosen.runs)]
    say_rounds(rounds, helps[1:])
    say(f"Median of {chosen.runs} rounds; {statistics.median(len(r.stages) for r in rounds):.0f} stages each.")


if __name__ == "__main__":
    main()
