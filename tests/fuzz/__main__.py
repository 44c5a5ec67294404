"""`python -m tests.fuzz`: Atheris changes seeds as coverage suggests, and keeps what leads somewhere new.

What it finds lies in `<corpus>/<target>/`; an input that breaks a promise is written there as `crash-...`, its traceback said.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

NAMES = ("tensors", "binary", "frames", "table", "repository", "segment", "payloads", "application")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", default=NAMES, metavar="TARGET", help=f"{', '.join(NAMES)}; default all")
    parser.add_argument("--seconds", type=int, default=0, help="for each target; 0: no limit but --runs")
    parser.add_argument("--runs", type=int, default=-1, help="inputs for each target; default no limit but --seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the changes; 0: another one every time")
    parser.add_argument("--corpus", type=Path, default=Path(".mlops/fuzz"), help="what is kept (default .mlops/fuzz)")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="give this input to the one target that is named, and end")
    parser.add_argument("--here", action="store_true", help="fuzz in this process, which libFuzzer ends")
    args = parser.parse_args()
    if unknown := set(args.targets) - set(NAMES):
        parser.error(f"no target {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    return args


def fuzz(args: argparse.Namespace) -> None:
    """Fuzz one target until libFuzzer ends this process: with 0 when nothing was found."""
    import atheris  # noqa: PLC0415 - what it is to see has to be imported after it

    with atheris.instrument_imports(include=["mlops_tasks.serving", "mlops_tasks.core.scoring", "csv"]):
        from tests.fuzz import application, decoders, seeds  # noqa: PLC0415 - likewise

    (name,) = args.targets
    folder = args.corpus / name
    seeds.write(name, folder)
    with tempfile.NamedTemporaryFile("w", suffix=".dict", encoding="utf-8") as words:
        words.write(seeds.tokens())
        words.flush()
        options = [f"-dict={words.name}", f"-artifact_prefix={folder}/", "-max_len=4096", "-timeout=20", "-rss_limit_mb=3000"]
        limits = [f"-runs={args.runs}", f"-max_total_time={args.seconds}", f"-seed={args.seed}"]
        target = application.application if name == "application" else decoders.TARGETS[name]
        atheris.Setup([sys.argv[0], *options, *limits, "-print_final_stats=1", str(folder)], target)
        atheris.Fuzz()


def repeat(args: argparse.Namespace) -> None:
    """Give one input to a target; what it breaks is raised."""
    from tests.fuzz import application, decoders  # noqa: PLC0415 - only here they come without Atheris

    (name,) = args.targets
    (application.application if name == "application" else decoders.TARGETS[name])(args.repeat.read_bytes())


def main() -> int:
    """Fuzz each target in a process of its own; return how many broke a promise."""
    args = parse()
    if args.repeat:
        repeat(args)
        return 0
    if args.here:
        fuzz(args)
    limits = ["--seconds", str(args.seconds), "--runs", str(args.runs), "--seed", str(args.seed), "--corpus", str(args.corpus)]
    broken = []
    for name in args.targets:
        print(f"fuzzing {name}", flush=True)  # noqa: T201 - a command's progress
        command = [sys.executable, "-m", "tests.fuzz", name, "--here", *limits]
        if subprocess.run(command, check=False).returncode:
            broken.append(name)
    print(f"broken: {', '.join(broken) or 'none'}")  # noqa: T201 - a command's result
    return len(broken)


if __name__ == "__main__":
    sys.exit(main())
