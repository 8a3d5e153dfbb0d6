"""A pool whose workers are families: what is configured, what dies, what is left."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter

from bridge.client import Pool
from tests.client.running import KIT, ROOT, fails, run, until
from tests.support.processes import children
from tests.support.worker import alive

FAMILY = (*KIT, "--commands", "tests.support.family_commands", "--workers", "2", "--model", "scripted")


def all_of(families: list[int]) -> list[int]:
    """The processes of families: supervisors, templates, workers."""
    templates = [child for pid in families for child in children(pid)]
    return [*families, *templates, *(child for pid in templates for child in children(pid))]


def test_a_pool_of_families() -> None:
    async def pids(workers: Pool) -> set[int]:
        calls = [workers.call("kit.where", {"pause_ms": 20}) for _ in range(16)]
        return {answer["pid"] for answer in await asyncio.gather(*calls)}

    async def answers(workers: Pool) -> Counter[str]:
        calls = [workers.call("stream_predict", {"question": "?", "lm": "x"}) for _ in range(16)]
        return Counter([answer.output["answer"] for answer in await asyncio.gather(*calls)])

    async def main() -> None:
        async with Pool(*FAMILY, workers=2, cwd=ROOT) as workers:
            await workers.wait_ready()
            assert len(await pids(workers)) == 4
            script = [{"outputs": {"answer": "configured"}}]
            await workers.configure(name="x", lm={"model": "scripted", "script": script})
            assert await answers(workers) == {"configured": 16}

            families = sorted(workers.pids)
            await fails(workers.call("fam.die", {"how": "kill"}), "worker_died")
            assert await answers(workers) == {"configured": 16}, "a newborn knows it, too"
            assert sorted(workers.pids) == families

            os.kill(families[0], signal.SIGKILL)
            await until(lambda: families[0] not in workers.pids)
            assert await answers(workers) == {"configured": 16}
            await workers.wait_ready()
            assert families[1] in workers.pids
            assert await answers(workers) == {"configured": 16}
            there = all_of(workers.pids)
            assert len(there) >= 2 * (1 + 1 + 2)
        assert not [pid for pid in [*there, *families] if alive(pid)]

    run(main())
