#!lua flags=allow-oom
-- A worker's heartbeat. Now and then it also reaps, for all workers: what dead workers held goes back to the front of its
-- queue, and their leases end. It also looks for what RQ lost, batches in the ledger that are neither queued, scheduled
-- nor taken; these go back, too. One call looks at a part of the ledger, and the next one goes on from there.
--
-- A batch whose worker died is divided; after the second death its parts are given out one at a time, so that the third
-- one is that of a single record. A record whose workers died again and again, within a short time, becomes a dead
-- letter (`poison`). The parts of the first death have `_d` in their names, those of the next one `_p`: see `suspect` in
-- reaper.py. Of a batch that is next in a strict order only the first record
-- is given out, since it was the one in work; the others wait behind it again.
--
-- KEYS  1 ledger   2 taken   3 leases   4 alive   5 reaper   6 queues   7 died   8 claims   9 tally
--      10 wanted   11 reaped   12 turn   13 heads
-- ARGV  1 rq's key prefix   2 our key prefix   3 worker   4 '1' when the worker leaves: what it holds goes back at once
--       5 a worker is dead after this many ms without a heartbeat   6 ms from one reaping to the next
--       7 a worker that has ended, as its supervisor has seen, or empty: what it held goes back at once
-- Returns the batches put back, QUEUE|ID, and the lane of each dead letter.
-- include ingest/store/queues.lua
-- include ingest/store/records.lua
-- include ingest/store/checks.lua
-- constants APART POISON_DEATHS POISON_SECONDS SEARCH_BATCHES SEARCH_COST SEARCH_LISTED SEARCH_HEADS
local ledger, taken, leases, alive, lock, queues, deaths, claims, tally, wanted, reaped, turn, heads = unpack(KEYS)
local rq, wa, worker, leaves, silence = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1', whole(ARGV[5])
local interval, ended = whole(ARGV[6]), text(ARGV[7])
text(worker)
local only -- when set, nobody is judged but this worker
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

-- include ingest/store/doorbell.lua

-- include workers/engine/order.lua

local known = {} -- batches that are not lost
local found = {} -- batches that go back
local letters, poisoned = {}, {}

-- Events that the dead worker had settled, of records that were not done, are met again, as copies, and counted so. How
-- many is added up, so that they can be told from a sender's copies.
local function count_again(id)
  local job = rq .. ':job:' .. id
  local ahead = tonumber(redis.call('HGET', job, 'ahead') or 0)
  if ahead > 0 then
    redis.call('HINCRBY', wa .. 'counts', 'again', ahead)
    redis.call('HSET', job, 'ahead', 0)
  end
end

local function goes_back(member)
  known[member] = true
  found[#found + 1] = member
end

-- The order of which this batch is the head, if it is one.
local function headed_by(member, id)
  local order = order_in(id)
  return order and redis.call('HGET', heads, order) == member and order
end

-- All but the first record of a batch that is next in an order wait behind it again. Returns how many are left.
local function keep_first(queue, id, count, order)
  for _ = 2, count do
    redis.call('LPUSH', list_of(order), queue .. '|' .. redis.call('RPOP', wa .. 'batch:' .. id))
  end
  return math.min(count, 1)
end

-- Nothing of this batch is left but its claims. They count no longer: its parts make their own.
local function forget(member, id)
  redis.call('DEL', wa .. 'batch:' .. id, rq .. ':job:' .. id)
  redis.call('ZREM', ledger, member)
  redis.call('HDEL', deaths, member)
end

local function divide(member, queue, id, count, times, mark)
  local score, size = redis.call('ZSCORE', ledger, member), math.ceil(count / APART)
  count_again(id)
  for first = 0, count - 1, size do
    -- All have one score, so their names keep the order.
    local part = id .. mark .. string.format('%05d', first + 1)
    local name = member_of(queue, part)
    local records = redis.call('LRANGE', wa .. 'batch:' .. id, first, first + size - 1)
    redis.call('RPUSH', wa .. 'batch:' .. part, unpack(records))
    redis.call('ZADD', ledger, score, name)
    redis.call('HSET', deaths, name, times)
    goes_back(name)
    local order = headed_by(member, id)
    if order then
      redis.call('HSET', heads, order, name)
    end
  end
  forget(member, id)
end

local function bury(member, queue, id)
  local lane, record = lane_of(queue), redis.call('LINDEX', wa .. 'batch:' .. id, 0)
  local received, attempt = struct.unpack('>I6B', record)
  local body, digest = body_of(record)
  local origin = digest and { 'origin', digest } or {} -- of a retry
  redis.call('XADD', wa .. 'dead:' .. lane, '*', 'reason', 'poison', 'kind', 'notification',
    'detail', 'its worker died ' .. POISON_DEATHS .. ' times', 'attempt', math.max(1, attempt % 128),
    'received', received, 'queue', queue, 'body', body, unpack(origin))
  redis.call('HINCRBY', wa .. 'counts', 'dead.notification', 1)
  redis.call('HINCRBY', tally, 'dead|' .. lane .. '|poison', 1)
  letters[#letters + 1] = lane
  poisoned[member] = true
  local order = headed_by(member, id)
  forget(member, id)
  if order then
    release(order)
  end
end

local function died(member, queue, id)
  local times, recent = tostring(now), 1
  for time in (redis.call('HGET', deaths, member) or ''):gmatch('%d+') do
    if now - time < POISON_SECONDS * 1000 then
      times, recent = times .. ' ' .. time, recent + 1
    end
  end
  local count, order = redis.call('LLEN', wa .. 'batch:' .. id), headed_by(member, id)
  if order then
    count = keep_first(queue, id, count, order)
  end
  if count > 1 or count == 1 and recent > 1 and not id:find('_p', 1, true) then
    divide(member, queue, id, count, times, recent > 1 and '_p' or '_d')
  elseif count == 1 and recent >= POISON_DEATHS then
    bury(member, queue, id)
  else
    redis.call('HSET', deaths, member, times)
    count_again(id)
    goes_back(member)
  end
end

-- The claims of what was buried end, and those of batches that were divided: nobody else would end them.
local function end_claims()
  local claimed, gone = redis.call('HGETALL', claims), poisoned -- only what is in work has claims, and this is rare
  for i = 1, #claimed, 2 do
    local field, holder = claimed[i], claimed[i + 1]
    if gone[holder] == nil then
      gone[holder] = not redis.call('ZSCORE', ledger, holder)
    end
    if field ~= '' and gone[holder] then
      redis.call('HDEL', claims, field)
    end
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

local function judge_workers()
  local holders = redis.call('HGETALL', taken)
  for i = 1, #holders, 2 do
    local member, holder = holders[i], holders[i + 1]:match('^[^#]*')
    if lives(holder) then
      known[member] = true
    else
      redis.call('HDEL', taken, member)
      if holder == worker then -- a worker that stops in order has not died
        count_again(select(2, queue_and_id(member)))
        goes_back(member)
      else
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
end

local cost = 0 -- of this search; an entry of the ledger costs 1, some 2 microseconds
local listed = {} -- of each queue that was read, the ids in it; false for one that is too long

local function is_queued(queue, id)
  local key = rq .. ':queue:' .. queue
  if listed[queue] == nil then
    listed[queue] = redis.call('LLEN', key) <= SEARCH_LISTED and {}
    cost = cost + (listed[queue] and redis.call('LLEN', key) / 10 or 0)
    for _, one in ipairs(listed[queue] and redis.call('LRANGE', key, 0, -1) or {}) do
      listed[queue][one] = true
    end
  end
  if listed[queue] then
    return listed[queue][id]
  end
  cost = cost + redis.call('LLEN', key) / 100
  return redis.call('LPOS', key, id, 'RANK', -1) -- the search begins with the youngest, at the end
end

local function is_lost(member)
  local queue, id = queue_and_id(member)
  return not known[member] and not redis.call('ZSCORE', rq .. ':scheduled:' .. queue, id) and not is_queued(queue, id)
end

-- Where the search goes on, as the number of younger entries in the ledger.
local function place()
  local score, member = (redis.call('GET', reaped) or ''):match('^(%S+) (.*)$')
  local rank = member and redis.call('ZREVRANK', ledger, member)
  return rank and rank + 1 or member and redis.call('ZCOUNT', ledger, '(' .. score, '+inf') or 0
end

-- From the youngest to the oldest, so that what goes back at the front is in order.
local function search()
  local at = place()
  repeat
    local members = redis.call('ZRANGE', ledger, at, at + SEARCH_BATCHES - 1, 'REV')
    for _, member in ipairs(members) do
      cost = cost + 1
      if is_lost(member) then
        cost = cost + 5
        goes_back(member)
      end
      if cost >= SEARCH_COST then
        redis.call('SET', reaped, redis.call('ZSCORE', ledger, member) .. ' ' .. member)
        return
      end
    end
    at = at + #members
  until #members < SEARCH_BATCHES
  redis.call('DEL', reaped)
end

-- What waits in strict orders whose head nobody has any more goes on: an older version of the workers took it.
local function look_at_heads()
  local some = redis.call('HRANDFIELD', heads, SEARCH_HEADS, 'WITHVALUES')
  for i = 1, #some, 2 do
    if not redis.call('ZSCORE', ledger, some[i + 1]) then
      release(some[i])
    end
  end
end

-- Puts what was found at the front of its queue, the oldest last, so that it ends up first.
local function put_back()
  local ranks = {}
  for _, member in ipairs(found) do
    ranks[member] = redis.call('ZREVRANK', ledger, member)
  end
  table.sort(found, function(one, other) return ranks[one] < ranks[other] end)
  for _, member in ipairs(found) do
    local queue, id = queue_and_id(member)
    redis.call('SADD', queues, rq .. ':queue:' .. queue)
    redis.call('LPUSH', rq .. ':queue:' .. queue, id)
    redis.call('HINCRBY', tally, 'reaped|' .. lane_of(queue) .. '|batches', 1)
    ring(lane_of(queue))
  end
end

judge_workers()
if next(poisoned) then
  end_claims()
end
search()
put_back()
look_at_heads()
return { found, letters }
