#!lua flags=allow-oom
-- Gives a worker the next batch: pop, in-flight mark and partition lease together.
--
-- KEYS  1 ledger   2 taken   3 leases   4 tails   5 turn   6 spent   7 waits   8 steering
-- ARGV  1 rq's key prefix   2 our key prefix   3 worker   4 job template   5 time as RQ writes it
--       6 the batch, QUEUE|ID, whose last settle this worker sends after this call, or empty
--       7 records of a capped lane to give at least: the worker may get more tokens while it has them
--       then the queues, lane after lane, the most urgent lane first
-- Returns {queue, batch, '1' if it is the one try of a lane that waits, worker#number, its records, how many events may
-- begin (-1: any number)}; or, when there is nothing to take, the milliseconds until there may be (-1: unknown).
-- In a capped lane it gives only the first records; the rest of the batch goes back when it is settled.
--
-- allow-oom: when Redis is full, taking work is what makes room.
-- include ingest/store/queues.lua
-- include workers/dispatch/bucket.lua
-- constants FAIR_SHARE PROBE_SECONDS
local ledger, taken, leases, tails, turn, spent, waits, steering = unpack(KEYS)
local rq, wa, worker, template, now, settling, width = unpack(ARGV, 1, 7)
local PARTITIONED = '^messages%.'

local now_s -- Redis' time in seconds
local controls = {} -- the fields of steering
local next_due -- when there may be something to take, as far as that is known

local function read_steering()
  local steered = redis.call('HGETALL', steering)
  for i = 1, #steered, 2 do
    controls[steered[i]] = steered[i + 1]
  end
end

-- Seconds until a capped lane has enough tokens (0: now, or it has no cap).
local function short(lane)
  local limit = controls['limit.' .. lane]
  return limit and select(2, look(steering, lane, tonumber(limit), now_s)) or 0
end

local function may_be_due(at)
  if at and (not next_due or at < next_due) then
    next_due = at
  end
end

-- Moves retry batches that are due from RQ's ScheduledJobRegistry to the front of the queue: they are older than all
-- that waits there. Returns when the next one is due.
local function promote(queue)
  local key = rq .. ':scheduled:' .. queue
  local due = redis.call('ZRANGEBYSCORE', key, '-inf', now_s, 'LIMIT', 0, 100)
  for i = #due, 1, -1 do
    redis.call('ZREM', key, due[i])
    redis.call('HSET', rq .. ':job:' .. due[i], 'status', 'queued')
    redis.call('LPUSH', rq .. ':queue:' .. queue, due[i])
  end
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function leased(queue)
  return queue:find(PARTITIONED) and redis.call('HEXISTS', leases, queue) == 1
end

local function has_more(lane)
  for _, queue in ipairs(lane) do
    if redis.call('LLEN', rq .. ':queue:' .. queue) > 0 and not leased(queue) then
      return true
    end
  end
end

local function pop(queue)
  while not leased(queue) do
    local id = redis.call('LPOP', rq .. ':queue:' .. queue)
    if not id then
      return nil
    end
    local member = member_of(queue, id)
    if redis.call('HEXISTS', taken, member) == 0 then
      if redis.call('ZSCORE', ledger, member) then
        return id
      end
      redis.call('DEL', rq .. ':job:' .. id) -- settled already
    end
    -- If a worker has it, it stood in the queue twice (a commit that was sent twice, `rq requeue`): skip the second.
  end
end

local function hand_over(queue, id, probe)
  -- A new number each time: a settle that this worker sent when it had the batch before no longer counts.
  local token = worker .. '#' .. redis.call('INCR', turn)
  redis.call('HSET', taken, member_of(queue, id), token)
  if queue:find(PARTITIONED) then
    redis.call('HSET', leases, queue, id)
  end
  if redis.call('HGET', tails, queue .. '|id') == id then
    redis.call('HDEL', tails, queue .. '|id', queue .. '|bytes')
  end
  local job = rq .. ':job:' .. id
  if redis.call('HEXISTS', job, 'data') == 0 then -- RQ may lose a job; the ledger does not
    local fields = template:gsub('_ID_', id):gsub('_QUEUE_', queue):gsub('_NOW_', now)
    redis.call('HSET', job, unpack(cjson.decode(fields)))
  end
  local batch, lane = wa .. 'batch:' .. id, lane_of(queue)
  local limit, allowance, last = controls['limit.' .. lane], -1, -1
  if limit then
    allowance = grant(steering, lane, tonumber(limit), now_s, redis.call('LLEN', batch))
    last = math.max(allowance, tonumber(width)) - 1
  end
  return { queue, id, probe, token, redis.call('LRANGE', batch, 0, last), allowance }
end

local function put_back(queue, id)
  redis.call('HDEL', taken, member_of(queue, id))
  if redis.call('HGET', leases, queue) == id then
    redis.call('HDEL', leases, queue)
  end
  redis.call('LPUSH', rq .. ':queue:' .. queue, id)
  redis.call('HSET', rq .. ':job:' .. id, 'status', 'queued')
end

-- A worker has one batch at a time. If it holds another one, it does not know that: its connection broke before the
-- answer to its take came, or before it could settle. No other worker would get that batch, because this one is alive.
local function hand_over_again()
  local held = redis.call('HGETALL', taken)
  for i = 1, #held, 2 do
    if held[i + 1]:match('^[^#]*') == worker and held[i] ~= settling then
      local queue, id = queue_and_id(held[i])
      local lane = lane_of(queue)
      if not controls['paused.' .. lane] and short(lane) == 0 then
        return hand_over(queue, id, tostring(redis.call('HEXISTS', waits, lane)))
      end
      put_back(queue, id)
    end
  end
end

-- The lanes of the worker's queues, the most urgent first, each with its queues. Promotes what is due.
local function read_lanes()
  local lanes, lane = {}, nil
  for i = 8, #ARGV do
    local queue = ARGV[i]
    local name = lane_of(queue)
    if not lane or lane.name ~= name then
      lane = { name = name, paused = controls['paused.' .. name], short = short(name) }
      table.insert(lanes, lane)
    end
    table.insert(lane, queue)
    local due = promote(queue)
    may_be_due(not lane.paused and due)
  end
  return lanes
end

-- Sets for each lane its recent work, whether it waits, and whether its next batch is the one try of a lane that waits.
-- Returns the recent work of all lanes.
local function weigh(lanes)
  local total = 0
  for _, lane in ipairs(lanes) do
    lane.spent = tonumber(redis.call('HGET', spent, lane.name)) or 0
    total = total + lane.spent
    local wait = tonumber(redis.call('HGET', waits, lane.name))
    lane.waits, lane.probe = wait and wait > now_s * 1000, wait
    if lane.paused then
      lane.waits = true
    elseif lane.waits then
      may_be_due(wait / 1000)
    elseif lane.short > 0 and has_more(lane) then
      may_be_due(now_s + lane.short)
    end
  end
  return total
end

-- Lower lanes that had less than their share go first, so that none starves; then all, the most urgent first.
local function in_order(lanes, total)
  local order = {}
  for n = 2, #lanes do
    if lanes[n].spent < FAIR_SHARE * total then
      order[#order + 1] = lanes[n]
    end
  end
  for _, lane in ipairs(lanes) do
    order[#order + 1] = lane
  end
  return order
end

-- Takes a batch out of the first lane that has one. Returns its id, its queue and the lane.
local function pop_first(order)
  local given = tonumber(redis.call('GET', turn) or 0) + 1
  for _, lane in ipairs(order) do
    for n = 0, (lane.waits or lane.short > 0) and -1 or #lane - 1 do
      local queue = lane[(given + n) % #lane + 1] -- each partition has its turn to be first
      local id = pop(queue)
      if id then
        return id, queue, lane
      end
    end
  end
end

-- Wakes one more worker for each lane that has more to take; that one does the same. For a capped lane, only a batch of
-- that lane wakes one, which then learns when there are tokens.
local function ring(lanes, given)
  for _, lane in ipairs(lanes) do
    if lane.short == 0 or lane == given then
      local doorbell = wa .. 'doorbell:' .. lane.name
      redis.call('DEL', doorbell)
      if not lane.probe and not lane.paused and has_more(lane) then
        redis.call('RPUSH', doorbell, 1)
      end
    end
  end
end

if redis.call('EXISTS', rq .. ':suspended') == 1 then -- `rq suspend`
  return -1
end
local time = redis.call('TIME')
now_s = time[1] + time[2] / 1000000
read_steering()

local reply = hand_over_again()
if reply then
  return reply
end

local lanes = read_lanes()
local id, queue, lane = pop_first(in_order(lanes, weigh(lanes)))
if not id then
  return next_due and math.max(0, math.ceil((next_due - now_s) * 1000)) or -1
end
reply = hand_over(queue, id, lane.probe and '1' or '0')
if lane.probe then
  redis.call('HSET', waits, lane.name, math.floor((now_s + PROBE_SECONDS) * 1000))
end
ring(lanes, lane)
return reply
