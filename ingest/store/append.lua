#!lua
-- Adds notifications to the batch that waits at the end of each queue, or to new batches. All or nothing.
--
-- KEYS  1 ledger   2 tails   3 queues
-- ARGV  1 rq's key prefix   2 our key prefix   3 id of this flush, unique   4 job template (see ingest/store/jobs.py)
--       5 notifications in a batch at most   6 bytes in a batch at most   7 time as RQ writes it
--       then for each queue: name, number of records, the records
-- Returns the number of new batches.
--
-- A batch is joined only while it waits: `tails` names the batch that append put at the end of the queue, take.lua
-- removes that name, and a batch that was retried or put back never gets it again.
-- include ingest/store/queues.lua
-- include ingest/store/checks.lua
-- constants CHUNK FLOW_SECONDS FLOW_KEPT_SECONDS FLUSH_KEPT_SECONDS HEADER_BYTES
local ledger, tails, queues = unpack(KEYS)
local rq, wa, flush, template = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- include ingest/store/doorbell.lua
local max_count, max_bytes, now = whole(ARGV[5]), whole(ARGV[6]), ARGV[7]
local flow = wa .. 'flow:' .. math.floor(redis.call('TIME')[1] / FLOW_SECONDS)
local made = 0

-- What is the same for all queues is asked and written together: each command costs more than what it does here.
local asked, lanes = {}, {}
job_of(template, flush, '', now) -- fails here, if it fails
local i = 8
while ARGV[i] do
  local last = i + 1 + whole(ARGV[i + 1])
  text(lane_of(ARGV[i]))
  for n = i + 2, last do
    if #text(ARGV[n]) < HEADER_BYTES then
      error('not a record')
    end
  end
  asked[#asked + 1] = ARGV[i] .. '|id'
  asked[#asked + 1] = ARGV[i] .. '|bytes'
  i = last + 1
end

-- redis-py sends a call again when its connection broke before the answer came, though it may have been carried out.
if ARGV[8] and not redis.call('SET', wa .. 'flush:' .. flush, 1, 'NX', 'EX', FLUSH_KEPT_SECONDS) then
  return 0
end

local function open_batch(queue, queue_key, first)
  made = made + 1
  local id = flush .. string.format('-%03d', made) -- ids sort in the order they were made: the reaper relies on it
  redis.call('HSET', rq .. ':job:' .. id, unpack(job_of(template, id, queue, now)))
  redis.call('RPUSH', queue_key, id)
  redis.call('ZADD', ledger, struct.unpack('>I6', first), member_of(queue, id))
  return id
end

local known = #asked > 0 and redis.call('HMGET', tails, unpack(asked)) or {}
local written = {}

i = 8
local n = 0
while ARGV[i] do
  local queue, last = ARGV[i], i + 1 + tonumber(ARGV[i + 1])
  local queue_key = rq .. ':queue:' .. queue
  local lane = lane_of(queue)
  lanes[lane] = (lanes[lane] or 0) + last - i - 1
  i = i + 2

  local id, count, bytes
  if known[n + 1] and redis.call('LINDEX', queue_key, -1) == known[n + 1] then
    id, bytes = known[n + 1], tonumber(known[n + 2])
    count = redis.call('LLEN', wa .. 'batch:' .. id)
  else
    redis.call('SADD', queues, queue_key)
  end

  while i <= last do
    if not id or count >= max_count or bytes + #ARGV[i] > max_bytes then
      id, count, bytes = open_batch(queue, queue_key, ARGV[i]), 0, 0
    end
    local upto = i
    count, bytes = count + 1, bytes + #ARGV[i]
    while upto < last and upto - i + 1 < CHUNK and count < max_count and bytes + #ARGV[upto + 1] <= max_bytes do
      upto = upto + 1
      count, bytes = count + 1, bytes + #ARGV[upto]
    end
    redis.call('RPUSH', wa .. 'batch:' .. id, unpack(ARGV, i, upto))
    i = upto + 1
  end
  written[2 * n + 1], written[2 * n + 2], written[2 * n + 3], written[2 * n + 4] = asked[n + 1], id, asked[n + 2], bytes
  n = n + 2
end

if n > 0 then
  redis.call('HSET', tails, unpack(written))
end
for lane, count in pairs(lanes) do
  redis.call('HINCRBY', flow, 'in.' .. lane, count)
  ring(lane)
end

redis.call('EXPIRE', flow, FLOW_KEPT_SECONDS)
return made
