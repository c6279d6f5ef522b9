#!lua flags=allow-oom
-- Settles a batch, or the part of it that is done. Events that are done leave the batch and are remembered; failed ones
-- go to a retry batch; those that will not be tried again become dead letters. All or nothing, and only for the worker
-- that holds the batch.
--
-- KEYS  1 ledger   2 taken   3 leases   4 doorbell:LANE   5 counts   6 dead:LANE   7 claims   8 generations   9 spent
--       10 failing   11 waits   12 deaths   13 steering   14 tally
-- ARGV  1 JSON object, see `Calls` in workers/engine/settle.py:
--         rq, wa     key prefixes
--         worker     its name
--         token      worker#number, as it stands in `taken` while the batch is this worker's
--         queue, batch   the batch
--         now        time as RQ writes it; empty when there are no retries
--         template   job template (see ingest/store/jobs.py); empty when there are no retries
--         call       number of this settle; rises with each that the worker sends
--         how        more: the batch goes on; end: all of it is done; back: its rest goes back to the front
--         records    number of records that leave the batch: all of their events are done
--         counts     what became of events: fields of that hash, and what is to be added to each
--         tally      the same of that hash
--         failed, fresh_failed   events that failed, and those of them that failed at their first attempt
--         succeeded  events that did not fail, without duplicates
--         probe      true when the lane waits and this batch is its one try
--         spent      milliseconds of work since the last settle
--         window     seconds that an event is remembered
--         urgent     queues of more urgent lanes that this worker takes from
--         capped     true when the batch was given with an allowance
--         unused     what is left of the allowance at the end, else 0
--         letters    number of dead letters
--         retries    for each retry batch: id, delay (seconds), number of records
--       then for each dead letter: reason, kind, detail, attempt, received (ms), body, digest of the notification in hex
--       then the records of the retry batches
--       then what is to be remembered, as one value with a line for each event: bucket (octal), member, and of a status
--         the markers of earlier stages of its message
-- Returns lost: another worker has the batch, nothing was done; more, end or back: done as asked; yield: a more urgent
-- lane waits, or this one was paused or capped meanwhile; wait: the lane has to wait, because everything fails.
--
-- allow-oom: settling makes room.
-- include ingest/store/queues.lua
-- include workers/dispatch/bucket.lua
-- constants CHUNK FLOW_SECONDS FLOW_KEPT_SECONDS CALLS_KEPT_SECONDS FAIR_SHARE SPENT_MS YIELD_MS
-- constants FAILURES LONGEST_WAIT_SECONDS SEEN_FULL
local ledger, taken, leases, doorbell, counts, dead, claims, generations, spent, failing, waits, deaths = unpack(KEYS)
local steering, tally = KEYS[13], KEYS[14]
local it = cjson.decode(ARGV[1])
local rq, wa, queue, id = it.rq, it.wa, it.queue, it.batch
local member, batch = member_of(queue, id), wa .. 'batch:' .. id
local lane = lane_of(queue)

local time, now -- by Redis' clock; set below, before the functions run

local function ring()
  if redis.call('LLEN', doorbell) == 0 then
    redis.call('RPUSH', doorbell, 1)
  end
end

-- Reads the dead letters from the arguments at `position`. Returns the position after them.
local function write_letters(position)
  for _ = 1, it.letters do
    local reason, kind, detail, attempt, received, body, origin = unpack(ARGV, position, position + 6)
    redis.call('XADD', dead, '*', 'reason', reason, 'kind', kind, 'detail', detail, 'attempt', attempt,
      'received', received, 'queue', queue, 'body', body, 'origin', origin)
    redis.call('HINCRBY', tally, 'dead|' .. lane .. '|' .. reason, 1)
    position = position + 7
  end
  return position
end

-- Writes the job and the ledger entry of a retry batch, unless it is scheduled already.
local function schedule(scheduled, name, delay, first_record)
  if redis.call('ZADD', scheduled, 'NX', now + delay, name) == 0 then
    return
  end
  local fields = it.template:gsub('_ID_', name):gsub('_QUEUE_', queue):gsub('_NOW_', it.now)
  redis.call('HSET', rq .. ':job:' .. name, unpack(cjson.decode(fields)))
  redis.call('HSET', rq .. ':job:' .. name, 'status', 'scheduled')
  redis.call('ZADD', ledger, struct.unpack('>I6', first_record), member_of(queue, name))
  ring() -- an idle worker learns when it is due
end

-- Reads the retry batches' records from the arguments at `position`. Returns the position after them.
local function write_retries(position)
  local scheduled = rq .. ':scheduled:' .. queue
  for _, retry in ipairs(it.retries) do
    local name, delay, count = unpack(retry)
    -- The settles of a batch add to one retry batch as long as that is still scheduled; then they begin another.
    if redis.call('EXISTS', wa .. 'batch:' .. name) == 1 and not redis.call('ZSCORE', scheduled, name) then
      name = name .. '-' .. time[1] .. time[2]
    end
    schedule(scheduled, name, delay, ARGV[position])
    local after = position + count
    for first = position, after - 1, CHUNK do
      redis.call('RPUSH', wa .. 'batch:' .. name, unpack(ARGV, first, math.min(after, first + CHUNK) - 1))
    end
    position = after
  end
  return position
end

-- The current generation; begins a new one when half the window is over or the sets are full. Returns its number and
-- how many digits of a bucket name a set.
local function generation()
  local last, found = 0, {}
  local described = redis.call('HGETALL', generations)
  for i = 1, #described, 2 do
    found[described[i]] = tonumber(described[i + 1])
    last = math.max(last, tonumber(described[i]:match('^%d+')))
  end
  local name = tostring(last)
  local digits = found[name]
  if digits then
    local count, full = found[name .. '.count'] or 0, SEEN_FULL * 8 ^ digits
    if count >= full then
      digits = math.min(8, digits + 1)
    elseif now - found[name .. '.born'] < it.window / 2 then
      return name, digits
    else -- its time is over: the next one gets the digits that would have suited its size
      digits = math.max(3, math.min(8, math.ceil(math.log(count / 256 + 1) / math.log(8))))
    end
  end
  name, digits = tostring(last + 1), digits or 4
  redis.call('HSET', generations, name, digits, name .. '.born', math.floor(now))
  return name, digits
end

-- Remembers events that are done, given as lines, and ends their claims.
local function remember(done)
  if done == '' then
    return
  end
  local current, digits = generation()
  local prefix, added, events = wa .. 'seen:' .. current .. ':', 0, {}
  for bucket, event, markers in done:gmatch('(%d+) ([^ \n]+)([^\n]*)') do
    local key = prefix .. bucket:sub(1, digits)
    if markers == '' then
      added = added + redis.call('SADD', key, event)
    else
      local all = { event }
      for marker in markers:gmatch('%S+') do
        all[#all + 1] = marker
      end
      added = added + redis.call('SADD', key, unpack(all))
    end
    events[#events + 1] = event
  end
  for first = 1, #events, CHUNK do
    redis.call('HDEL', claims, unpack(events, first, math.min(#events, first + CHUNK - 1)))
  end
  redis.call('HINCRBY', generations, current .. '.count', added)
end

local function count_events()
  for outcome, count in pairs(it.counts) do
    redis.call('HINCRBY', counts, outcome, count)
  end
  for field, count in pairs(it.tally) do
    redis.pcall('HINCRBY', tally, field, count) -- a counter must not end a settle half-way
    local handler = field:match('^(handler|.+|)sum$')
    if handler then
      redis.call('HSET', tally, handler .. 'seen', time[1])
    end
  end
end

local function remove_records()
  if it.records > 0 then
    local flow = wa .. 'flow:' .. math.floor(time[1] / FLOW_SECONDS)
    redis.call('HINCRBY', flow, 'out.' .. lane, it.records)
    redis.call('EXPIRE', flow, FLOW_KEPT_SECONDS)
    redis.call('LTRIM', batch, it.records, -1)
  end
end

-- Adds to the lane's recent work; take.lua compares the lanes. Returns the recent work of all lanes.
local function share_work()
  local total = 0
  redis.call('HINCRBY', spent, lane, it.spent)
  local shares = redis.call('HGETALL', spent)
  for i = 2, #shares, 2 do
    total = total + shares[i]
  end
  if total > SPENT_MS then
    for i = 1, #shares, 2 do
      redis.call('HSET', spent, shares[i], math.floor(shares[i + 1] / 2))
    end
  end
  return total
end

-- When everything fails (a database is down), the lane waits instead of burning attempts. True when this call makes it
-- wait.
local function wait_if_all_fails()
  if it.succeeded > 0 then
    redis.call('HDEL', failing, lane)
    redis.call('HDEL', waits, lane)
  elseif it.probe and it.failed == 0 then
    redis.call('HSET', waits, lane, math.floor(now * 1000)) -- this try showed nothing: another one may follow
  elseif it.fresh_failed > 0 or it.probe and it.failed > 0 then
    local failures = redis.call('HINCRBY', failing, lane, 1)
    if failures >= FAILURES then
      local seconds = math.min(LONGEST_WAIT_SECONDS, 2 ^ math.min(10, failures - FAILURES))
      redis.call('HSET', waits, lane, math.floor((now + seconds) * 1000))
      ring() -- an idle worker learns how long
      return true
    end
  end
  return false
end

-- True when a batch of another queue has waited too long and may be taken: its partition is free, and its lane does not
-- wait, is not paused and has tokens.
local function is_overdue(other)
  local first = redis.call('LINDEX', rq .. ':queue:' .. other, 0)
  if not first or redis.call('HEXISTS', leases, other) == 1 then
    return false
  end
  local since, name = redis.call('ZSCORE', ledger, member_of(other, first)), lane_of(other)
  local until_ = tonumber(redis.call('HGET', waits, name) or 0)
  if not since or now * 1000 - since < YIELD_MS or until_ > now * 1000 then
    return false
  end
  local paused, limit = unpack(redis.call('HMGET', steering, 'paused.' .. name, 'limit.' .. name))
  return not paused and (not limit or select(2, look(steering, name, tonumber(limit), now)) == 0)
end

-- True when the batch has to yield. `total` is the recent work of all lanes.
local function has_to_yield(total)
  local paused, limit = unpack(redis.call('HMGET', steering, 'paused.' .. lane, 'limit.' .. lane))
  if paused or limit and not it.capped then
    return true
  end
  if total > 0 and (tonumber(redis.call('HGET', spent, lane)) or 0) >= FAIR_SHARE * total then
    for _, other in ipairs(it.urgent) do
      if is_overdue(other) then
        return true
      end
    end
  end
  return false
end

-- Takes the batch from the worker.
local function let_go()
  if it.unused > 0 then
    redis.call('HINCRBYFLOAT', steering, 'tokens.' .. lane, it.unused)
  end
  redis.call('HDEL', taken, member)
  if redis.call('HGET', leases, queue) == id then
    redis.call('HDEL', leases, queue)
  end
  if redis.call('EXISTS', batch) == 1 then
    -- Its rest goes back. After `end` there is one only if redis-py sent a receiver's commit twice and it came late.
    redis.call('LPUSH', rq .. ':queue:' .. queue, id)
    redis.call('HSET', rq .. ':job:' .. id, 'status', 'queued')
  else
    redis.call('DEL', rq .. ':job:' .. id)
    redis.call('ZREM', ledger, member)
    redis.call('HDEL', deaths, member)
  end
  if redis.call('LLEN', rq .. ':queue:' .. queue) > 0 then
    ring() -- the partition is free again
  end
end

-- redis-py sends a call again when its connection breaks, or Redis hangs, before the answer comes; and a Redis that
-- hung still carries out what it was sent, however late. Each call counts once.
local calls = wa .. 'calls:' .. it.worker
if it.call <= tonumber(redis.call('GET', calls) or 0) then
  return it.how
end
if redis.call('HGET', taken, member) ~= it.token then
  return 'lost'
end
redis.call('SET', calls, it.call, 'EX', CALLS_KEPT_SECONDS)
time = redis.call('TIME')
now = time[1] + time[2] / 1000000

local after_letters = write_letters(2)
local after_retries = write_retries(after_letters)
remember(ARGV[after_retries])
count_events()
remove_records()
local total = share_work()
local waiting = wait_if_all_fails()

if it.how ~= 'more' then
  let_go()
  return it.how
end
if waiting then
  return 'wait'
end
return has_to_yield(total) and 'yield' or 'more'
