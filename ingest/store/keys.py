"""The names in Redis. No other module makes one; scripts get the prefixes and make those with an id in them.

TTL: how long Redis keeps the key; `-`: for ever. Ours, after the prefix `rq:wa:`:

| key | type | TTL | holds |
|---|---|---|---|
| `format` | string | - | the number of the form in which all this lies here, see `ingest/store/formats.py` |
| `agreed` | zset | - | `VARIABLE=VALUE` of settings that processes must agree on, by when one last ran with it (s) |
| `batch:ID` | list | - | the records of a batch, until all are settled |
| `ledger` | zset | - | every unfinished batch, `QUEUE|ID`, by arrival of its first record (ms): what is still owed |
| `tails` | hash | - | the batch at the end of a queue that may still be joined: its id `QUEUE|id`, size `QUEUE|bytes` |
| `taken` | hash | - | `QUEUE|ID` → `WORKER#N`, the worker that has it; N rises with every batch given out |
| `leases` | hash | - | partition queue → `WORKER|N`, the one worker that may take of it, and how many batches it has |
| `wanted` | hash | - | worker → how many of its partitions others would like, since they have nothing to do |
| `flush:ID` | string | 60 s | this flush was carried out |
| `takes:WORKER` | string | 1 h | the number of the last take that the worker sent, and the batches that it was given |
| `calls:WORKER` | string | 1 h | the number of the last settle that the worker sent |
| `claims` | hash | - | digest of an event, or of a status's message → the batch, `QUEUE|ID`, that handles it |
| `generations` | hash | - | of each generation of `seen`: digits in the name of a set, when it was born, its size |
| `seen:N:DIGITS` | set | - | digests of events that were handled; a worker removes them after WA_DEDUP_WINDOW |
| `profiles:G:N` | hash | 60 d | what was last seen of contacts, in generation G, see `workers/engine/profiles.py` |
| `links:G` | hash | 30 d | digest of a user id → its contact, in generation G, see `ingest/store/links.py` |
| `turn` | string | - | how many batches were given out, ever |
| `spent` | hash | - | lane → milliseconds of work lately |
| `breakdowns` | hash | - | handler that always fails → how, and its next try, see `ingest/state/breakdowns.py` |
| `in_work` | hash | - | worker → by lane the calls that take long, what waits there, see `ingest/state/in_work.py` |
| `parked` | hash | - | what waits for one time, `QUEUE|NAME` → the batch that may still be joined, `ID|BYTES` |
| `owed` | hash | - | digest in the names of parked batches → the handlers that their events are owed to |
| `failures` | hash | - | handler → how its last event failed, and since when some do, see `ingest/state/failures.py` |
| `put_off` | set | - | parked batches, `QUEUE|ID`, of which a handler always fails: due as soon as it works again |
| `heads` | hash | - | strict order of a contact → the batch, `QUEUE|ID`, that is next, see `workers/engine/orders.py` |
| `behind:ORDER` | list | - | records that wait behind that batch, each as `QUEUE|RECORD` |
| `died` | hash | - | `QUEUE|ID` → when its workers died (ms), as far as it counts |
| `alive` | zset | - | workers by their last sign of life (ms) |
| `reaper` | string | 3 s | the worker that reaped last; none reaps again while it is there |
| `reaped` | string | - | how far the search for lost batches has come: `SCORE QUEUE|ID` in the ledger |
| `trim` | string | 50 s | the worker that last removed what is too old; none does so again while it is there |
| `doorbell:LANE` | list | - | at most one token; idle workers block on it |
| `dead:LANE` | stream | - | dead letters; a worker removes them after WA_DEAD_AGE |
| `counts` | hash | - | what became of events, ever, see `ingest/state/totals.py` |
| `tally` | hash | - | what else workers count, see `ingest/state/counters.py` |
| `flow:T` | hash | 10 min | of the ten seconds T: notifications in and out per lane, calls of handlers |
| `flow:refused:T` | hash | 30 min | requests refused, by cause, and accepted: of ten minutes T, and its ten seconds |
| `steering` | hash | - | lanes and handlers that an operator paused or capped, see `ingest/state/controls.py` |
| `rates` | hash | - | tokens of handlers with a rate, see `workers/dispatch/rate_limits.py` |
| `history` | stream | - | the backlog over the last hour, see `ingest/state/history.py` |
| `history.turn` | string | 9 s | a receiver took a sample; none does so again while it is there |
| `alerts` | string | - | which findings were posted to WA_ALERT_URL, see `ingest/state/alerts.py` |
| `alerts.turn` | string | 30 s | a receiver looks at the findings and posts; no other one does so while it is there |
| `listeners` | zset | 10 s | who listens to what workers handle, see `ingest/state/listeners.py` |
| `tail:LISTENER` | channel | - | what workers tell that listener |
| `simulated:RUN` | list | 1 h | what handlers saw of a simulated run, see `workers/simulator/verifying.py` |
| `example:*` | string | any | of the handlers in `examples/` |

RQ's, after the prefix `rq:`. We use the first five; the others are its worker's, for `rq info` and rq-dashboard:

| key | type | TTL | holds |
|---|---|---|---|
| `queues` | set | - | the keys of all queues |
| `queue:QUEUE` | list | - | ids of batches that wait |
| `job:ID` | hash | - | the job of a batch, which holds its id and never a body; gone with the batch |
| `scheduled:QUEUE` | zset | - | ids of parked batches by when they are due (s) |
| `suspended` | string | any | somebody ran `rq suspend`: nothing is given out |
| `workers`, `workers:QUEUE` | set | - | the keys of workers, of all and of a queue |
| `worker:WORKER`, `worker:WORKER:executions` | hash, zset | any | a worker process, and what it has in work |
| `pubsub:WORKER` | channel | - | its commands to a worker |
"""

from __future__ import annotations

from rq.defaults import RQ_KEY_PREFIX

# Ours live under RQ's prefix, so that a {hash tag} in RQ_KEY_PREFIX puts all keys of a script into one Cluster slot.
RQ = RQ_KEY_PREFIX
WA = f"{RQ}:wa:"

FORMAT, AGREED = WA + "format", WA + "agreed"
LEDGER, TAILS, TAKEN, LEASES = (WA + name for name in ("ledger", "tails", "taken", "leases"))
CLAIMS, GENERATIONS = WA + "claims", WA + "generations"
TURN, SPENT, WANTED, BREAKDOWNS, IN_WORK = (WA + name for name in ("turn", "spent", "wanted", "breakdowns", "in_work"))
ALIVE, DEATHS, REAPER, REAPED, TRIM = (WA + name for name in ("alive", "died", "reaper", "reaped", "trim"))
PARKED, PUT_OFF, HEADS = WA + "parked", WA + "put_off", WA + "heads"
OWED, FAILURES = WA + "owed", WA + "failures"
COUNTS, COUNTERS = WA + "counts", WA + "tally"
CONTROLS, RATES = WA + "steering", WA + "rates"
HISTORY, HISTORY_TURN = WA + "history", WA + "history.turn"
ALERTS, ALERTS_TURN = WA + "alerts", WA + "alerts.turn"
LISTENERS = WA + "listeners"

RQ_QUEUES, RQ_SUSPENDED = f"{RQ}:queues", f"{RQ}:suspended"


def batch_key(batch: str) -> str:
    return f"{WA}batch:{batch}"


def seen_key(generation: str, digits: str) -> str:
    return f"{WA}seen:{generation}:{digits}"


def profiles_prefix(generation: int) -> str:
    """How the names of a generation's hashes begin; their number follows."""
    return f"{WA}profiles:{generation}:"


def links_key(generation: int) -> str:
    return f"{WA}links:{generation}"


def doorbell_key(lane: str) -> str:
    return f"{WA}doorbell:{lane}"


def dead_key(lane: str) -> str:
    return f"{WA}dead:{lane}"


def flow_key(bucket: int) -> str:
    return f"{WA}flow:{bucket}"


def refused_key(bucket: int) -> str:
    return f"{WA}flow:refused:{bucket}"


def tail_channel(listener: str, db: int = 0) -> str:
    """`db` is the number of the database: channels are of a whole server, all else is of one database."""
    return f"{WA}tail:{listener}:{db}" if db else f"{WA}tail:{listener}"


def simulated_key(run: str) -> str:
    return f"{WA}simulated:{run}"


def example_key(name: str) -> str:
    return f"{WA}example:{name}"


def behind_key(order: str) -> str:
    """What waits behind the head of a strict order."""
    return f"{WA}behind:{order}"


def queue_key(queue: str) -> str:
    return f"{RQ}:queue:{queue}"


def queue_of(key: bytes) -> str:
    """The queue that a member of RQ_QUEUES names."""
    return key.decode().removeprefix(queue_key(""))


def job_key(batch: str) -> str:
    """RQ's job of a batch."""
    return f"{RQ}:job:{batch}"


def rq_worker_key(worker: str) -> str:
    """What RQ keeps of a worker process."""
    return f"{RQ}:worker:{worker}"


def scheduled_key(queue: str) -> str:
    """RQ's ScheduledJobRegistry: retry batches wait there until they are due."""
    return f"{RQ}:scheduled:{queue}"
