"""`python -m tests.autobahn WSTEST`: have Autobahn's fuzzing client try the service, and judge what it found.

WSTEST is the program of that name from PyPI's `autobahntestsuite`, which runs on Python 2.7 only; `make autobahn`
installs it. The service runs on loopback with an event handler that echoes (apps.py), as `manage.py serve` starts it.
Exits with 1 where a case has not the result that is wanted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.autobahn.apps import HUB
from tests.running import SERVERS, Service

# 8 does not exist; 12 and 13 are about compression, which the service does not offer.
CASES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")

GROUPS = {
    "1": "messages of any size",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmented messages",
    "6": "UTF-8",
    "7": "closing",
    "9": "large messages, small fragments",
    "10": "automatic fragmentation",
}

# Where bad UTF-8 may be noticed at the end of a message rather than at once.
LENIENT = "6.4."

# The longest case has a minute of its own, and all together a few.
MAX_SECS = 3600.0

Results = Mapping[str, Mapping[str, Any]]


def main() -> int:
    """Run it; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.autobahn", description=__doc__.splitlines()[0])
    parser.add_argument("wstest", help="the program of autobahntestsuite")
    parser.add_argument("--server", choices=SERVERS, default="uvicorn", help="default: %(default)s")
    parser.add_argument("--cases", default=",".join(CASES), help="patterns, by commas (default: %(default)s)")
    parser.add_argument("--reports", type=Path, help="a directory for Autobahn's reports (default: they are not kept)")
    options = parser.parse_args()
    wstest = shutil.which(options.wstest)
    if wstest is None:
        parser.error(f"{options.wstest} is no program; `make autobahn` installs it")
    with tempfile.TemporaryDirectory(prefix="autobahn-") as directory:
        reports = (options.reports or Path(directory) / "reports").resolve()
        results = _run(str(Path(wstest).absolute()), options.server, options.cases.split(","), Path(directory), reports)
    print(table(results))
    unwanted = faults(results)
    for line in unwanted:
        print(line, file=sys.stderr)
    return 1 if unwanted or not results else 0


def _run(wstest: str, server: str, cases: list[str], directory: Path, reports: Path) -> Results:
    data = directory / "data"
    data.mkdir()
    env = {"EXTRA_APPS": "tests.autobahn", "DJANGO_SETTINGS_MODULE": "tests.autobahn.settings"}
    service = Service(data, server=server, env=env).set_up()
    service.start()
    try:
        url = service.manage_json("client", "url", "--hub-name", HUB)["url"]
        specification = directory / "fuzzingclient.json"
        specification.write_text(
            json.dumps(
                {
                    "options": {"failByDrop": False},
                    "outdir": str(reports),
                    "servers": [{"agent": server, "url": url}],
                    "cases": cases,
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        command = [wstest, "--mode", "fuzzingclient", "--spec", str(specification)]
        subprocess.run(command, cwd=directory, check=True, timeout=MAX_SECS, stdout=subprocess.DEVNULL)
    finally:
        service.stop()
    log = service.log.read_text()
    if "Traceback" in log:
        raise SystemExit(f"The service was surprised:\n{log}")
    return dict(json.loads((reports / "index.json").read_text())[server])


def table(results: Results) -> str:
    """Results by group, as a Markdown table."""
    kinds = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED")
    lines = ["| group | cases | ok | informational | non-strict | failed | failed by client, or unclean end |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for group in [*GROUPS, ""]:
        chosen = [result for case, result in results.items() if not group or case.split(".")[0] == group]
        if not chosen:
            continue
        found = Counter(result["behavior"] for result in chosen)
        failed = len(chosen) - sum(found[kind] for kind in kinds[:3])
        ends = sum(result["behaviorClose"] not in ("OK", "INFORMATIONAL") for result in chosen)
        name = f"{group} {GROUPS[group]}" if group else "**all**"
        lines.append(
            f"| {name} | {len(chosen)} | {found['OK']} | {found['INFORMATIONAL']} | {found['NON-STRICT']} "
            f"| {failed} | {ends} |"
        )
    return "\n".join(lines)


def faults(results: Results) -> list[str]:
    """What is not as wanted, a line each."""
    found = []
    for case, result in sorted(results.items(), key=lambda each: [int(part) for part in each[0].split(".")]):
        allowed = {"OK", "INFORMATIONAL"} | ({"NON-STRICT"} if case.startswith(LENIENT) else set())
        if result["behavior"] not in allowed or result["behaviorClose"] not in ("OK", "INFORMATIONAL"):
            found.append(f"{case}: {result['behavior']}, at the end {result['behaviorClose']}")
    return found


if __name__ == "__main__":
    sys.exit(main())
