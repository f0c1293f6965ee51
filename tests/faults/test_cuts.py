"""The short form: connections of clients are cut all the time, and nothing is missing, doubled or misplaced.

`make cuts` runs the long one, with the official clients' own pace.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import cuts
from tests.faults.client import Pace
from tests.faults.cuts import Cuts
from tests.faults.harness import Plan
from tests.running import PATIENCE

PLAN = Plan(
    clients=20,
    publishers=4,
    # Fast enough that something is always under way when a connection is cut or moves.
    rate=20,
    pace=Pace(retry_secs=0.2, acknowledge_secs=0.3),
    settle_secs=PATIENCE * 2,
)
CUTS = Cuts(seconds=8, every_secs=1.6, secs=0.6, silent_share=0.4)


@pytest.mark.parametrize(
    ("server", "count"), [("uvicorn", 1), ("daphne", 1), ("uvicorn", 2)], ids=["uvicorn", "daphne", "two workers"]
)
async def test_every_acknowledged_message_arrives_once_and_in_order(server: str, count: int, tmp_path: Path) -> None:
    with cuts.processes(tmp_path, count, server) as services:
        done = await cuts.run(services, PLAN, CUTS)
        outcome = done.outcome
        assert not outcome.violations(cuts.PROMISE), "\n".join(service.log.read_text()[-2000:] for service in services)
    # And the connections were bad indeed. Far fewer cuts than the plan has on average: a slow machine has fewer.
    assert done.cuts + done.silent_cuts > PLAN.clients
    assert len(outcome.recovered_after) > PLAN.clients
    assert done.silent_cuts
    assert (outcome.elsewhere > 0) == (count > 1)
