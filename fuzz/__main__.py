"""`python -m fuzz [TARGET ...] --seconds 60`: fuzz each target for so long, in a process of its own.

Exit status 0 where nothing was found. What was found is in the directory of the corpus, as a file `crash-...`; with
`--run FILE` a target is run on it alone. Corpora are kept, so that the next run goes on from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run the targets, one after another."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="which; all unless named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="where corpora and findings are kept")
    parser.add_argument("--run", type=Path, help="run the one target that is named on this file, and end")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _fuzz(options.targets[0], options.corpus, options.seconds)
    from fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target is called {unknown[0]!r}; there are {', '.join(TARGETS)}")
    if options.run is not None:
        for name in names:
            TARGETS[name](options.run.read_bytes())
        return 0
    failed = []
    for name in names:
        print(f"--- {name}: {options.seconds} s", flush=True)
        arguments = [name, "--inside", "--seconds", str(options.seconds), "--corpus", str(options.corpus)]
        if subprocess.run([sys.executable, "-m", "fuzz", *arguments], check=False).returncode:
            failed.append(name)
    found = f"{', '.join(failed)} failed" if failed else "nothing found"
    print(f"{len(names)} targets, {options.seconds} s each: {found}")
    return bool(failed)


def _fuzz(name: str, corpus: Path, seconds: int) -> int:
    try:
        import atheris
    except ImportError:
        print("fuzzing needs atheris: pip install -c constraints.txt -e '.[dev]'", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["quorumcache", "fuzz"]):
        from fuzz.targets import TARGETS, seeds_of

    directory = corpus / name
    directory.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(name)):
        (directory / f"seed-{number}").write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-max_len=20000",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-artifact_prefix={directory}/",
        str(directory),
    ]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
