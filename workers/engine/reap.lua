#!lua flags=allow-oom
-- A worker's heartbeat. Now and then it also reaps, for all workers: each batch in the ledger that is neither queued,
-- scheduled nor with a live worker goes back to the front of its queue, and the leases of dead workers end.
--
-- A batch whose worker died twice is split: each of its records becomes a batch of its own, a suspect. If the worker of
-- a suspect dies too, the third death, its record becomes a dead letter (`poison`).
--
-- KEYS  1 ledger   2 taken   3 leases   4 alive   5 reaper   6 queues   7 deaths   8 claims   9 tally
--      10 wanted
-- ARGV  1 rq's key prefix   2 our key prefix   3 worker   4 '1' when the worker leaves: what it holds goes back at once
--       5 a worker is dead after this many ms without a heartbeat   6 ms from one reaping to the next
--       7 a worker that has ended, as its supervisor has seen, or empty: what it held goes back at once
-- Returns the batches put back, QUEUE|ID, and the lane of each dead letter.
-- include ingest/store/queues.lua
-- include ingest/store/records.lua
-- constants SPLIT_AT
local ledger, taken, leases, alive, lock, queues, deaths, claims, tally, wanted = unpack(KEYS)
local rq, wa, worker, leaves, silence = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', tonumber(ARGV[5])
local interval, ended = ARGV[6], ARGV[7]
local only -- when set, nothing is looked at but what this worker held
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

if leaves then
  redis.call('ZREM', alive, worker)
else
  local newest = tonumber(redis.call('ZREVRANGE', alive, 0, 0, 'WITHSCORES')[2])
  redis.call('ZADD', alive, now, worker)
  -- If no worker sent a heartbeat for so long, Redis was away: the others have until the next reaping.
  local its_turn = redis.call('SET', lock, worker, 'NX', 'PX', interval) and not (newest and now - newest >= silence)
  if redis.call('ZREM', alive, ended) == 0 and not its_turn then
    return { {}, {} }
  end
  only = not its_turn and ended
end

-- Nothing of this batch is left, nor of the claims of batches that were divided.
local function forget(member, id)
  local claimed = redis.call('HGETALL', claims) -- only what is in work has claims, and this is rare
  for i = 1, #claimed, 2 do
    local field, holder = claimed[i], claimed[i + 1]
    if holder == member or field ~= '' and not redis.call('ZSCORE', ledger, holder) then
      redis.call('HDEL', claims, field)
    end
  end
  redis.call('DEL', wa .. 'batch:' .. id, rq .. ':job:' .. id)
  redis.call('ZREM', ledger, member)
  redis.call('HDEL', deaths, member)
end

local back, letters = {}, {}

local function died(member, queue, id)
  local count = redis.call('HINCRBY', deaths, member, 1)
  local records = count >= SPLIT_AT and redis.call('LRANGE', wa .. 'batch:' .. id, 0, -1) or {}
  if count == SPLIT_AT and #records > 0 then
    local score = redis.call('ZSCORE', ledger, member)
    for n, record in ipairs(records) do
      -- All have one score, so their names keep the order. `_p` marks a suspect, see `suspect` in reaper.py.
      local part = id .. string.format('_p%05d', n)
      redis.call('RPUSH', wa .. 'batch:' .. part, record)
      redis.call('ZADD', ledger, score, member_of(queue, part)) -- the sweep below puts them into the queue
      redis.call('HSET', deaths, member_of(queue, part), SPLIT_AT)
    end
    forget(member, id)
  elseif #records == 1 then
    local lane = lane_of(queue)
    local received, attempt = struct.unpack('>I6B', records[1])
    local body, digest = body_of(records[1])
    local origin = digest and { 'origin', digest } or {} -- of a retry
    redis.call('XADD', wa .. 'dead:' .. lane, '*', 'reason', 'poison', 'kind', 'notification',
      'detail', 'its worker died ' .. count .. ' times', 'attempt', math.max(1, attempt % 128),
      'received', received, 'queue', queue, 'body', body, unpack(origin))
    redis.call('HINCRBY', wa .. 'counts', 'dead.notification', 1)
    redis.call('HINCRBY', tally, 'dead|' .. lane .. '|poison', 1)
    letters[#letters + 1] = lane
    forget(member, id)
  end
end

local asked = {}

-- False for a worker without a sign of life. With `only`, nobody is looked at but that one.
local function lives(holder)
  if asked[holder] == nil then
    local seen = redis.call('ZSCORE', alive, holder)
    asked[holder] = only and holder ~= only or seen and now - seen < silence or false
  end
  return asked[holder]
end

local known = {}
local holders = redis.call('HGETALL', taken)
for i = 1, #holders, 2 do
  local member, holder = holders[i], holders[i + 1]:match('^[^#]*')
  if lives(holder) then
    known[member] = true
  else
    redis.call('HDEL', taken, member)
    if holder ~= worker then -- a worker that stops in order has not died
      died(member, queue_and_id(member))
    end
  end
end
local leased = redis.call('HGETALL', leases)
for i = 1, #leased, 2 do
  local holder = leased[i + 1]:match('^(.*)|%d+$') or ''
  if not lives(holder) then
    redis.call('HDEL', leases, leased[i])
    redis.call('HDEL', wanted, holder)
  end
end
redis.call('ZREMRANGEBYSCORE', alive, '-inf', now - 10 * silence)

for _, key in ipairs(redis.call('SMEMBERS', queues)) do
  local queue = key:sub(#rq + 8) -- after "rq:queue:"
  for _, id in ipairs(redis.call('LRANGE', key, 0, -1)) do
    known[member_of(queue, id)] = true
  end
  for _, id in ipairs(redis.call('ZRANGE', rq .. ':scheduled:' .. queue, 0, -1)) do
    known[member_of(queue, id)] = true
  end
end

-- From the youngest to the oldest, so that the oldest ends up first.
for _, member in ipairs(redis.call('ZRANGE', ledger, 0, -1, 'REV')) do
  if not known[member] then
    local queue, id = queue_and_id(member)
    redis.call('SADD', queues, rq .. ':queue:' .. queue)
    redis.call('LPUSH', rq .. ':queue:' .. queue, id)
    back[#back + 1] = member
    local lane = lane_of(queue)
    redis.call('HINCRBY', tally, 'reaped|' .. lane .. '|batches', 1)
    local doorbell = wa .. 'doorbell:' .. lane
    if redis.call('LLEN', doorbell) == 0 then
      redis.call('RPUSH', doorbell, 1)
    end
  end
end
return { back, letters }
