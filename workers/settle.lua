#!lua flags=allow-oom
-- Ends a batch, or the part of it that is done: what was done leaves it, what failed goes to a retry batch, what nobody
-- will try again to the dead letters. All or nothing, and only for the worker that holds the batch.
--
-- KEYS  1 ledger   2 taken   3 leases   4 the lane's doorbell   5 counts   6 the lane's dead letters
-- ARGV  1 rq's key prefix   2 our key prefix   3 worker   4 queue   5 batch   6 records done since the last settle
--       7 '1' when the batch is at its end   8 JSON object: what became of events   9 job template
--       10 time as RQ writes it   11 number of dead letters, then for each: reason, kind, detail, attempt,
--       received (ms), body; then the number of retry batches, then for each: id, delay (seconds), number of
--       records, the records
-- Returns 0: the batch is not this worker's any more, nothing was done; 1: settled, more is left; 2: ended.
--
-- allow-oom: settling makes room.
local ledger, taken, leases, doorbell, counts, dead = unpack(KEYS)
local rq, wa, worker, queue, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local done, ended, template, now = tonumber(ARGV[6]), ARGV[7] == '1', ARGV[9], ARGV[10]
local member, batch = queue .. '|' .. id, wa .. 'batch:' .. id
local lane = queue:match('^[^.]+')
local CHUNK = 1000 -- unpack() fails at some 8,000 values

if redis.call('HGET', taken, member) ~= worker then
  return 0
end

local time = redis.call('TIME')
local position = 12

local function ring()
  if redis.call('LLEN', doorbell) == 0 then
    redis.call('RPUSH', doorbell, 1)
  end
end

for _ = 1, tonumber(ARGV[11]) do
  local reason, kind, detail, attempt, received, body = unpack(ARGV, position, position + 5)
  redis.call('XADD', dead, '*', 'reason', reason, 'kind', kind, 'detail', detail, 'attempt', attempt,
    'received', received, 'queue', queue, 'body', body)
  position = position + 6
end

local groups = tonumber(ARGV[position])
position = position + 1
for _ = 1, groups do
  local retry, delay, count = ARGV[position], tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2])
  local scheduled = rq .. ':scheduled:' .. queue
  -- What a batch fails with is one retry batch, as long as that one still waits for its time.
  if redis.call('EXISTS', wa .. 'batch:' .. retry) == 1 and not redis.call('ZSCORE', scheduled, retry) then
    retry = retry .. '-' .. time[1] .. time[2]
  end
  if redis.call('ZADD', scheduled, 'NX', time[1] + time[2] / 1000000 + delay, retry) == 1 then
    local fields = template:gsub('_ID_', retry):gsub('_QUEUE_', queue):gsub('_NOW_', now)
    redis.call('HSET', rq .. ':job:' .. retry, unpack(cjson.decode(fields)))
    redis.call('HSET', rq .. ':job:' .. retry, 'status', 'scheduled')
    redis.call('ZADD', ledger, struct.unpack('>I6', ARGV[position + 3]), queue .. '|' .. retry)
    ring() -- an idle worker learns when it is due
  end
  local first, last = position + 3, position + 2 + count
  while first <= last do
    local upto = math.min(last, first + CHUNK - 1)
    redis.call('RPUSH', wa .. 'batch:' .. retry, unpack(ARGV, first, upto))
    first = upto + 1
  end
  position = last + 1
end

for outcome, count in pairs(cjson.decode(ARGV[8])) do
  redis.call('HINCRBY', counts, outcome, count)
end
if done > 0 then
  local flow = wa .. 'flow:' .. math.floor(time[1] / 10)
  redis.call('HINCRBY', flow, 'out.' .. lane, done)
  redis.call('EXPIRE', flow, 600)
  redis.call('LTRIM', batch, done, -1)
end
if not ended then
  return 1
end

redis.call('HDEL', taken, member)
if redis.call('HGET', leases, queue) == id then
  redis.call('HDEL', leases, queue)
end
if redis.call('EXISTS', batch) == 1 then
  -- A commit that was sent twice, because its connection broke, reached a batch in work: it is not at its end.
  redis.call('LPUSH', rq .. ':queue:' .. queue, id)
else
  redis.call('ZREM', ledger, member)
end
if redis.call('LLEN', rq .. ':queue:' .. queue) > 0 then
  ring() -- the partition is free again
end
return 2
