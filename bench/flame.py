"""`python -m bench.flame`: a picture of where the server's time goes while it fans out.

py-spy looks at the server a few hundred times a second, from outside and without stopping it, while the
members of each shape are sent messages as in `bench.fanout`; what it saw becomes a flame graph. A frame's
width is its share of the samples. With `--native`, functions of C libraries and the system calls stand in
it as well. Looking into another process needs the right to trace it (root, or ptrace_scope 0).
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

import uvloop
from rich.console import Console

from bench import crowd
from bench.clients import PATIENCE_SECS
from bench.command import seconds, whole
from bench.contestants import CONTESTANTS, ROOT
from bench.crowd import Crowd, Shape
from bench.machine import CannotStart, interruptible, need_files, take_cores
from bench.servers import PROBLEMS, Server, Wrong

SHAPES = {str(shape).replace("×", "x"): shape for shape in crowd.SHAPES}
SERVERS = ("hubwire", "hubwire-reliable", "hubwire-redis")
PICTURE = ROOT / "docs" / "images" / "flamegraph.svg"
UNDER_WAY = 2000
# Longer than any recording; it is ended when the traffic is.
LONGEST_SECS = 3600


def _profiler() -> str:
    beside = Path(sys.executable).parent / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise CannotStart("A flame graph needs py-spy. Install it with: pip install -r requirements-dev.txt")
    return found


async def _traffic(server: Server, shape: Shape, secs: float, recording: list[str]) -> None:
    """Flood one shape while the profiler looks. Raises Wrong."""
    async with Crowd(server, shape) as crowd:
        await crowd.flood(min(1.0, secs / 2), UNDER_WAY)
        profiler = subprocess.Popen(recording, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            traffic = await crowd.flood(secs, UNDER_WAY)
        finally:
            # It writes what it has when it is interrupted.
            profiler.send_signal(signal.SIGINT)
            _, said = profiler.communicate(timeout=PATIENCE_SECS)
    if profiler.returncode:
        raise Wrong(f"py-spy ended with {profiler.returncode}: {said.strip().splitlines()[-1] if said.strip() else ''}")
    if traffic.fault:
        raise Wrong(f"{shape}: {traffic.fault}")


def entitle(picture: str, title: str) -> str:
    """Put a title over the picture in place of the profiler's command line, which names the paths of this machine."""
    titled, count = re.subn(r'(<text id="title"[^>]*>)[^<]*', lambda found: found[1] + escape(title), picture)
    if count != 1:
        raise Wrong("py-spy's picture has no title where one was expected")
    return titled


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.flame", description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1x1000", help="groups x members (default: %(default)s)")
    parser.add_argument("--server", choices=SERVERS, default="hubwire", help="default: %(default)s")
    parser.add_argument("--secs", type=seconds(1, 600), default=15.0, help="of traffic (default: %(default)g)")
    parser.add_argument("--rate", type=whole(10, 1000), default=250, help="looks per second (default: %(default)s)")
    parser.add_argument("--native", action="store_true", help="show functions of C libraries too")
    parser.add_argument("--output", type=Path, default=PICTURE, help="default: docs/images/flamegraph.svg")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Start the server, send, look, draw."""
    options = _options(argv)
    interruptible()
    console = Console()
    shape = SHAPES[options.shape]
    cores = take_cores()
    try:
        need_files(shape.groups * (shape.members + 1))
        profiler = _profiler()
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with Server(CONTESTANTS[options.server], cores.servers) as server:
            recording = [profiler, "record", "--pid", str(server.processes()[0].pid), "--function", "--nonblocking"]
            recording += ["--rate", str(options.rate), "--duration", str(LONGEST_SECS), "--output", str(options.output)]
            if options.native:
                # Native stacks can only be read of a process that stands still.
                recording.remove("--nonblocking")
                recording.append("--native")
            uvloop.run(_traffic(server, shape, options.secs, recording))
            title = f"{server.contestant.title}, {shape} members, 64-byte messages: where the server's time goes"
        options.output.write_text(entitle(options.output.read_text(encoding="utf-8"), title), encoding="utf-8")
    except PROBLEMS as problem:
        console.print(f"No picture. {problem}", style="bold red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"Drawn: {options.output}", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
