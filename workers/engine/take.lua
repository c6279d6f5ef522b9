#!lua flags=allow-oom
-- Gives a worker what it can begin soon: for each batch pop, in-flight mark and the partition's lease together.
--
-- KEYS  1 ledger   2 taken   3 leases   4 tails   5 turn   6 steering   7 died   8 wanted   9 alive
--      10 parked   11 put_off
-- ARGV  1 rq's key prefix   2 our key prefix   3 worker   4 job template   5 time as RQ writes it
--       6 number of this call; rises with each that the worker sends   7 '1' when the worker holds nothing
--       8 how many parts of what was put off there is room for
--       then lane after lane, the most urgent first: its name, how many records there is room for, number of queues,
--       the queues
-- Returns milliseconds until there may be more to take (-1: unknown); how many partitions this worker should give to
-- others; 1 when a batch is next, or is given, beside which a worker may have no other; the lanes of which this worker
-- could take more; and the batches, each as queue, id, worker#number, its records, and how many events of its lane may begin
-- (-1: any number).
--
-- A batch that is larger than the room is divided. A batch whose workers died twice is given alone, so that the next death
-- tells which batch kills. After one death nobody is suspected: machines are taken away, and a hand holds hundreds of
-- batches, which one at a time would take hours.
--
-- What was put off because a handler always failed comes in parts, from each queue one at a time and few in all, so that
-- new events are taken beside it: other handlers do not wait for what one of them has to catch up on.
--
-- A call leases no more partitions than the worker's part of them: a flood that begins reaches all workers at once. What
-- the others leave may be taken with the next call.
--
-- allow-oom: when Redis is full, taking work is what makes room.
-- include ingest/store/queues.lua
-- include ingest/store/checks.lua
-- include workers/dispatch/bucket.lua
-- constants CHUNK TAKE_BYTES TAKE_BATCHES CALLS_KEPT_SECONDS IDLE_MS LEAVE_MS PROMOTED FEW_OWED PUT_OFF_PART PUT_OFF_SECONDS
local ledger, taken, leases, tails, turn, steering, deaths, wanted, alive, parked, put_off = unpack(KEYS)
local rq, wa, worker, template, now, call, empty_handed = unpack(ARGV, 1, 7)
local FIRST_LANE = 9
local PARTITIONED = '^messages%.'
local call_key = wa .. 'takes:' .. worker

local now_s -- Redis' time in seconds
local controls = {} -- the fields of steering
local waiting = {} -- how many batches wait in each queue of `lane`s
local owed -- the queues that have any batch, while few are owed; nil: any queue may
local holders, counts = {}, {} -- of each leased partition: the worker, and how many batches of it that has
local given, members, bytes = {}, {}, 0
local next_due -- when there may be something to take, as far as that is known
local careful = 0
local workers -- how many there are
local promotes = PROMOTED -- how many batches may still be
local put_offs = whole(ARGV[8]) -- and how many of them of what was put off

local function may_be_due(at)
  if at and (not next_due or at < next_due) then
    next_due = at
  end
end

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

-- Most of the time few batches are owed: then only their queues need a look. When there is none all queues are looked at,
-- so that ids which RQ left in one (see `pop`) do not stay there.
local function read_owed()
  local all = redis.call('ZRANGE', ledger, 0, FEW_OWED)
  if #all > 0 and #all <= FEW_OWED then
    owed = {}
    for _, member in ipairs(all) do
      owed[queue_and_id(member)] = true
    end
  end
end

-- Calls `found` with each of these queues that has a key of this prefix. Mostly few have or all: so it asks for all of
-- them together, then for halves. An EXISTS of 32 keys costs no more than two commands of one key.
local function each_with(prefix, queues, from, to, found)
  local names = {}
  for n = from, to do
    names[#names + 1] = prefix .. queues[n]
  end
  local count = #names > 0 and redis.call('EXISTS', unpack(names)) or 0
  if count == #names then
    for n = from, to do
      found(queues[n])
    end
  elseif count > 0 then
    local middle = math.floor((from + to) / 2)
    each_with(prefix, queues, from, middle, found)
    each_with(prefix, queues, middle + 1, to, found)
  end
end

local function is_put_off(id)
  return id:sub(1, 1) == 'w'
end

-- When to look again for more of what was put off. `later`: not at once.
local function more_put_off(later)
  return now_s + (later and PUT_OFF_SECONDS or 0)
end

-- Those of these batches that may go to the front of the queue: of what was put off one, unless one is there, or there
-- is no room for it, or the partition is another worker's. And when the next one of that may, if there is more of it.
local function promotable(queue, due)
  local front = redis.call('LINDEX', rq .. ':queue:' .. queue, 0)
  local waits = front and is_put_off(front) or put_offs == 0 or (holders[queue] or worker) ~= worker
  local found, has_one, left = {}, waits, false
  for _, id in ipairs(due) do
    if not is_put_off(id) then
      found[#found + 1] = id
    elseif has_one then
      left = true
    else
      found[#found + 1] = id
      has_one = true
      put_offs = put_offs - 1
    end
  end
  return found, left and more_put_off(waits)
end

-- Moves parked batches that are due from RQ's ScheduledJobRegistry to the front of the queue: they are older than all
-- that waits there. From now on nothing joins them. Returns when the next one is due.
local function promote(queue)
  local key = rq .. ':scheduled:' .. queue
  local first = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  if not first or first > now_s then
    return first
  end
  local due, again = promotable(queue, redis.call('ZRANGEBYSCORE', key, '-inf', now_s, 'LIMIT', 0, promotes))
  for i = #due, 1, -1 do
    local id = due[i]
    redis.call('ZREM', key, id)
    if not order_in(id) then
      redis.call('HDEL', parked, slot_of(queue, id))
    end
    if is_put_off(id) then
      redis.call('SREM', put_off, member_of(queue, id))
    end
    redis.call('HSET', rq .. ':job:' .. id, 'status', 'queued')
    redis.call('LPUSH', rq .. ':queue:' .. queue, id)
  end
  promotes = promotes - #due
  return again or tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function read_leases()
  local all = redis.call('HGETALL', leases)
  for i = 1, #all, 2 do
    local holder, count = all[i + 1]:match('^(.*)|(%d+)$')
    holders[all[i]], counts[all[i]] = holder or all[i + 1], tonumber(count)
  end
end

-- True when another worker could take something of the lane.
local function has_more(lane)
  for _, queue in ipairs(lane) do
    if waiting[queue] > 0 and not holders[queue] then
      return true
    end
  end
end

local function push_front(queue, id)
  redis.call('LPUSH', rq .. ':queue:' .. queue, id)
  waiting[queue] = waiting[queue] + 1
end

-- Receivers add nothing more to this batch.
local function not_joined(queue, id)
  if redis.call('HGET', tails, queue .. '|id') == id then
    redis.call('HDEL', tails, queue .. '|id', queue .. '|bytes')
  end
end

local function write_job(queue, id)
  local fields = template:gsub('_ID_', id):gsub('_QUEUE_', queue):gsub('_NOW_', now)
  redis.call('HSET', rq .. ':job:' .. id, unpack(cjson.decode(fields)))
end

-- Halves a batch. Both halves have new names, so that claims under the old one no longer count; they sort in the order
-- of their records. Returns the first half; the other waits at the front of the queue.
local function halve(queue, id, count)
  local base, offset = id:match('^(.*)_s(%d+)_%d+$')
  local whole, score = wa .. 'batch:' .. id, redis.call('ZSCORE', ledger, member_of(queue, id))
  local number, middle, halves = redis.call('INCR', turn), math.floor(count / 2), {}
  for n, from in ipairs({ 0, middle }) do
    local half = string.format('%s_s%06d_%d', base or id, (offset or 0) + from, number)
    local last = n == 1 and middle - 1 or count - 1
    for at = from, last, CHUNK do
      local records = redis.call('LRANGE', whole, at, math.min(at + CHUNK - 1, last))
      redis.call('RPUSH', wa .. 'batch:' .. half, unpack(records))
    end
    redis.call('ZADD', ledger, score, member_of(queue, half))
    write_job(queue, half)
    halves[n] = half
  end
  redis.call('DEL', whole, rq .. ':job:' .. id)
  redis.call('ZREM', ledger, member_of(queue, id))
  not_joined(queue, id)
  if is_put_off(id) then -- its other half is due at once, in order of arrival, but not in front of what is new
    redis.call('ZADD', rq .. ':scheduled:' .. queue, math.min(now_s, tonumber(score) / 1000), halves[2])
    may_be_due(more_put_off(put_offs == 0))
  else
    push_front(queue, halves[2])
  end
  return halves[1]
end

local function hand_over(queue, id, lane)
  local member = member_of(queue, id)
  -- A new number each time: a settle that this worker sent when it had the batch before no longer counts.
  local token = worker .. '#' .. redis.call('INCR', turn)
  redis.call('HSET', taken, member, token)
  not_joined(queue, id)
  if redis.call('HEXISTS', rq .. ':job:' .. id, 'data') == 0 then -- RQ may lose a job; the ledger does not
    write_job(queue, id)
  end
  local records, tokens = redis.call('LRANGE', wa .. 'batch:' .. id, 0, -1), -1
  if lane.limit then
    tokens = grant(steering, lane.name, lane.limit, now_s, #records)
  end
  for _, record in ipairs(records) do
    bytes = bytes + #record
  end
  given[#given + 1] = { queue, id, token, records, tokens }
  members[#members + 1] = member
  return #records
end

-- The next id of a queue that is owed and that nobody has.
local function pop(queue)
  while waiting[queue] > 0 do
    local id = redis.call('LPOP', rq .. ':queue:' .. queue)
    waiting[queue] = id and waiting[queue] - 1 or 0
    local member = member_of(queue, id or '')
    -- If a worker has it, it stood in the queue twice (a commit that was sent twice, `rq requeue`): skip the second.
    if id and redis.call('HEXISTS', taken, member) == 0 then
      if redis.call('ZSCORE', ledger, member) then
        return id
      end
      redis.call('DEL', rq .. ':job:' .. id) -- settled already
    end
  end
end

-- How many records there is room for: in a capped lane no more than may begin.
local function room_of(lane)
  if not lane.limit then
    return lane.room
  end
  local tokens = look(steering, lane.name, lane.limit, now_s)
  return math.min(lane.room, math.max(1, math.floor(tokens)))
end

-- Halves a batch until it fits. Returns its first part. One that is next in a strict order is small, and keeps its name.
local function fit(queue, id, room)
  if order_in(id) then
    return id
  end
  local count = redis.call('LLEN', wa .. 'batch:' .. id)
  while count > 1.5 * room do
    id = halve(queue, id, count)
    count = math.floor(count / 2)
  end
  return id
end

-- True when the workers that had this batch died twice (reap.lua notes the times of the deaths).
local function is_suspect(member)
  local times = redis.call('HGET', deaths, member)
  return times and times:find(' ', 1, true) ~= nil
end

-- Takes a batch of this queue, or its first records. Returns how many, and true when nothing more may be given.
local function give(queue, lane)
  local partitioned = queue:find(PARTITIONED)
  local is_new = partitioned and not holders[queue]
  if is_new and lane.part == 0 and waiting[queue] > 0 then
    lane.left = true
    return 0
  end
  local id = (holders[queue] or worker) == worker and pop(queue)
  if not id then
    return 0
  end
  local alone = is_suspect(member_of(queue, id))
  if alone and (empty_handed ~= '1' or #given > 0) then
    push_front(queue, id)
    careful = 1
    return 0, true
  end
  if alone then
    careful = 1 -- nor may anything come beside it
  end
  if not alone then
    local room = room_of(lane)
    id = fit(queue, id, is_put_off(id) and math.min(room, PUT_OFF_PART) or room)
  end
  if partitioned then
    holders[queue], counts[queue] = worker, (counts[queue] or 0) + 1
    lane.part = lane.part - (is_new and 1 or 0)
    redis.call('HSET', leases, queue, worker .. '|' .. counts[queue])
  end
  return hand_over(queue, id, lane), alone
end

-- Fills the room of a lane from its queues, each in turn. True when nothing more may be given.
local function fill(lane)
  if #lane == 0 then
    return false
  end
  local from, idle = tonumber(redis.call('GET', turn) or 0), 0
  while lane.room > 0 and idle < #lane do
    if #given >= TAKE_BATCHES or bytes >= TAKE_BYTES or lane.limit and short(lane.name) > 0 then
      return false
    end
    local queue = lane[from % #lane + 1]
    from = from + 1
    local count, last = give(queue, lane)
    if last then
      return true
    end
    idle = count > 0 and 0 or idle + 1
    lane.room = lane.room - count
  end
  return false
end

-- The lanes of the worker's queues, each with its queues and its room.
local function read_lanes()
  workers = math.max(1, redis.call('ZCARD', alive))
  local lanes, i = {}, FIRST_LANE
  while ARGV[i] do
    local name = ARGV[i]
    local lane = { name = name, room = finite(ARGV[i + 1]), limit = tonumber(controls['limit.' .. name]) }
    lane.open = not controls['paused.' .. name]
    lane.part = math.ceil(whole(ARGV[i + 2]) / workers)
    local last = i + 2 + whole(ARGV[i + 2])
    if last > #ARGV then
      error('fewer queues than it says')
    end
    for n = i + 3, last do
      local queue = ARGV[n]
      if not owed or owed[queue] then
        lane[#lane + 1] = queue
        waiting[queue] = 0
      end
    end
    lanes[#lanes + 1] = lane
    i = last + 1
  end
  return lanes
end

-- Puts what is due into the queues of a lane, and counts what waits there. It writes: all arguments have been read.
local function promote_due(lane)
  local scheduled = {}
  each_with(rq .. ':scheduled:', lane, 1, #lane, function(queue)
    scheduled[#scheduled + 1] = queue
  end)
  for n = 1, #scheduled do -- with each call another one first
    local due = promote(scheduled[(n + call) % #scheduled + 1])
    may_be_due(lane.open and due)
  end
  each_with(rq .. ':queue:', lane, 1, #lane, function(queue)
    waiting[queue] = redis.call('LLEN', rq .. ':queue:' .. queue)
  end)
end

-- True when this worker could take something of a lane now.
local function has_more_for_me(lane)
  if not lane.open or #lane == 0 or short(lane.name) > 0 then
    return false
  end
  for _, queue in ipairs(lane) do
    if waiting[queue] > 0 and (holders[queue] == worker or not (holders[queue] or lane.left)) then
      return true
    end
  end
end

local function with_more_for_me(lanes)
  local found = {}
  for _, lane in ipairs(lanes) do
    found[#found + 1] = has_more_for_me(lane) and lane.name or nil
  end
  return found
end

-- Wakes one more worker for each lane that has more to take; that one does the same.
local function ring(lanes)
  local doorbells = {}
  for n, lane in ipairs(lanes) do
    doorbells[n] = wa .. 'doorbell:' .. lane.name
  end
  if #lanes > 0 then
    redis.call('DEL', unpack(doorbells))
  end
  for n, lane in ipairs(lanes) do
    if lane.open and has_more(lane) then
      local wait = short(lane.name)
      if wait > 0 then
        may_be_due(now_s + wait)
      else
        redis.call('RPUSH', doorbells[n], 1)
      end
    end
  end
end

-- This worker got no messages. If others have more than their part of the partitions, they learn that it is wanted; if
-- none has, but one has two more than this worker, that one: at the end of a backlog its others would wait there.
local function ask_for_a_part()
  local held, total = {}, 0
  for _, holder in pairs(holders) do
    held[holder] = (held[holder] or 0) + 1
    total = total + 1
  end
  local mine, part = held[worker] or 0, math.ceil(total / workers)
  local most, asked = nil, false
  for holder, count in pairs(held) do
    if count >= mine + 2 and count > part then
      redis.call('HSET', wanted, holder, count - part)
      asked = true
    elseif count >= mine + 2 and count > (held[most] or 0) then
      most = holder
    end
  end
  if most and not asked then
    redis.call('HSET', wanted, most, 1)
  end
  if most or asked then
    may_be_due(now_s + IDLE_MS / 1000)
  end
end

-- redis-py sends a call again when its connection breaks before the answer comes. Then the worker gets what it was
-- given, so far as nobody else has it by now, and there may be more of every lane.
local function again(before)
  local names, i = {}, FIRST_LANE
  while ARGV[i] do
    names[#names + 1] = ARGV[i]
    i = i + 3 + ARGV[i + 2]
  end
  for member in before:gmatch('[^\n]+') do
    local token = redis.call('HGET', taken, member)
    if token and token:match('^[^#]*') == worker then
      careful = is_suspect(member) and 1 or 0
      local queue, id = queue_and_id(member)
      given[#given + 1] = { queue, id, token, redis.call('LRANGE', wa .. 'batch:' .. id, 0, -1), 0 }
    end
  end
  return { -1, 0, careful, names, given }
end

local time = redis.call('TIME')
now_s = time[1] + time[2] / 1000000
local last, before = (redis.call('GET', call_key) or ''):match('^(%d+)\n(.*)$')
if tonumber(last) == tonumber(call) then
  return again(before)
end
if last and tonumber(last) > tonumber(call) or redis.call('EXISTS', rq .. ':suspended') == 1 then -- late; `rq suspend`
  return { -1, 0, 0, {}, {} }
end
read_steering()
read_leases()
read_owed()

local lanes, had_room = read_lanes(), false
for _, lane in ipairs(lanes) do
  promote_due(lane)
end
for _, lane in ipairs(lanes) do
  had_room = had_room or lane.room > 0 and lane.name == 'messages'
  if lane.open and fill(lane) then
    break
  end
  may_be_due(lane.left and now_s + LEAVE_MS / 1000)
end
ring(lanes)
redis.call('SET', call_key, call .. '\n' .. table.concat(members, '\n'), 'EX', CALLS_KEPT_SECONDS)
local messages = 0
for _, one in ipairs(given) do
  messages = messages + (lane_of(one[1]) == 'messages' and 1 or 0)
end
if messages == 0 and had_room and careful == 0 then
  ask_for_a_part()
end
local share = tonumber(redis.call('HGET', wanted, worker) or 0)
if share > 0 then
  redis.call('HDEL', wanted, worker)
end
return { next_due and math.max(0, math.ceil((next_due - now_s) * 1000)) or -1, share, careful,
  with_more_for_me(lanes), given }
