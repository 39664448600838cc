"""`python -m tools.sam build | invoke`, and what it takes to invoke by hand: `variables | digits | wait`."""

import argparse
import json
import sys
from pathlib import Path

from tools.sam import build

SKIPPED = build.CACHE / "skipped"
"""Why the functions were not invoked, for whoever reports at the end of many steps."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.sam", description="The application under SAM CLI.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="sam build, and what each function weighs")
    invoke = commands.add_parser("invoke", help="sam local invoke of every function, and what must be so afterwards")
    invoke.add_argument("--json", action="store_true", help="print one JSON document")
    invoke.add_argument(
        "--may-skip", action="store_true", help="say so, and succeed, where no Docker engine can be had"
    )
    variables = commands.add_parser("variables", help="the file that sam local invoke takes as --env-vars")
    variables.add_argument("url", help="where the embedded cloud answers")
    variables.add_argument("file", type=Path)
    digits = commands.add_parser("digits", help="write digits.csv, the drop that the events under events/ are about")
    digits.add_argument("folder", type=Path)
    waiting = commands.add_parser("wait", help="until no job is in progress and no endpoint is being made or deleted")
    waiting.add_argument("url", help="where the embedded cloud answers")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "build":
            return _build()
        if chosen.command == "variables":
            return _variables(chosen.url, chosen.file)
        if chosen.command == "digits":
            return _digits(chosen.folder)
        if chosen.command == "wait":
            return _wait(chosen.url)
        return _invoke(as_json=chosen.json, may_skip=chosen.may_skip)
    except (build.Missing, build.BuildFailed) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _build() -> int:
    built = build.build(build.ROOT / ".aws-sam/build")
    found = build.sizes(built)
    print(build.table_of_sizes(found))
    if found[0].total >= build.UNZIPPED_MAX:
        sys.stderr.write(f"{found[0].function.logical_id} is larger than Lambda takes\n")
        return 1
    print(f"built in {built.relative_to(build.ROOT)}: sam deploy --guided takes it from there")
    return 0


def _variables(url: str, file: Path) -> int:
    from tools.sam.chain import World
    from tools.sam.invoke import write_variables

    write_variables(World(url), file)
    return 0


def _digits(folder: Path) -> int:
    from dropmill_cli.samples import write_digits

    print(write_digits(folder))
    return 0


def _wait(url: str) -> int:
    from tools.sam.chain import World

    World(url).settle()
    return 0


def _invoke(*, as_json: bool, may_skip: bool) -> int:
    from tools.sam.invoke import prove

    def said(words: str) -> None:
        sys.stderr.write(f"{words}\n")

    SKIPPED.unlink(missing_ok=True)
    try:
        proof = prove(said)
    except build.Missing as error:
        words = f"SKIPPED: no function was run by sam local invoke: {error}"
        frame = "!" * min(120, len(words))
        sys.stderr.write(f"\n{frame}\n{words}\n{frame}\n\n")
        if not may_skip:
            return 1
        SKIPPED.parent.mkdir(parents=True, exist_ok=True)
        SKIPPED.write_text(f"{words}\n")
        return 0
    print(json.dumps(proof.document(), indent=2) if as_json else f"\n{proof.table()}")
    return 0 if proof.whole else 1


if __name__ == "__main__":
    sys.exit(main())
