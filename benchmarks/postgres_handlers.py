"""What the example's bulk handlers are compared with; BENCH_POSTGRES names one: `each` or `nothing`."""

from __future__ import annotations

import os

from examples.postgres import recording
from workers import Handlers, Status

handlers = Handlers()

_EACH = """
INSERT INTO deliveries AS known (message, participant, business, recipient, state, sent_at, delivered_at, read_at)
VALUES (
  $1, $2, $3, $4, $5::delivery_state,
  CASE WHEN $5 = 'sent' THEN $6::timestamptz END,
  CASE WHEN $5 = 'delivered' THEN $6::timestamptz END,
  CASE WHEN $5 = 'read' THEN $6::timestamptz END
)
ON CONFLICT (message, participant) DO UPDATE SET
  state = greatest(known.state, excluded.state),
  sent_at = least(known.sent_at, excluded.sent_at),
  delivered_at = least(known.delivered_at, excluded.delivered_at),
  read_at = least(known.read_at, excluded.read_at)
"""

if os.environ["BENCH_POSTGRES"] == "each":
    handlers.startup(recording.open_pool)
    handlers.shutdown(recording.close_pool)

    @handlers.status("sent", "delivered", "read")
    async def record(status: Status) -> None:
        """One statement for one event, as people do; over as many connections as the example has."""
        await recording._pools[0].execute(_EACH, *recording._delivery(status)[:6])
else:

    @handlers.status("sent", "delivered", "read", bulk=500, linger=0.2)
    async def do_nothing(statuses: list[Status]) -> None:
        pass
