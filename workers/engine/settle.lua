#!lua flags=allow-oom
-- Settles batches, or the parts of them that are done. Events that are done leave their batch and are remembered; failed
-- ones are parked until their next try; those that will not be tried again become dead letters. All or nothing, and only for batches
-- that the worker holds.
--
-- KEYS  1 ledger   2 taken   3 leases   4 counts   5 claims   6 generations   7 spent   8 died   9 steering   10 tally
--       11 wanted   12 turn   13 parked   14 put_off   15 heads   16 owed   17 failures
-- ARGV  1 JSON object, see `Arguments` in workers/engine/settle.py:
--         rq, wa     key prefixes
--         worker     its name
--         now        time as RQ writes it; empty when there are no retries
--         template   job template (see ingest/store/jobs.py); empty when there are no retries
--         call       number of this settle; rises with each that the worker sends
--         counts     what became of events: fields of that hash, and what is to be added to each
--         tally      the same of that hash
--         window     seconds that an event is remembered
--         owed       digests of the handlers that events are owed to -> their names
--         failures   handler -> how its last event failed, of those that had one that is tried again or given up
--         spent      lane -> milliseconds of handlers since the last settle
--         unused     lane -> tokens of a capped lane that come back
--         ring       lanes of which so much waits in the worker that another one, if it has nothing to do, should ask
--         batches    each an object:
--           token      worker#number, as it stands in `taken` while the batch is this worker's
--           queue, batch   the batch
--           how        more: the batch goes on; end: all of it is done; back: its rest goes back to the front
--           records    number of records that leave the batch: all of their events are done, or written anew
--           again      number of these of which something is written anew, to be tried again: they do not count as out
--           ahead      number of events that are done, of records that stay: if the worker dies, they are met again
--           parts      number of records that take their place: what is left of notifications that are partly done, or
--                      many of few events for one of many
--           letters    number of dead letters
--           retries    of the events that wait for the same time and handlers: sort (see `Wait` in
--                      workers/engine/results.py), delay, step to which the due time is rounded up (seconds), digest of
--                      these handlers, number of records
--           heads      of each retry for which later events of its strict order wait: order, and the first four of these
--           behind     the strict order of each event that waits behind such a one
--       then for each batch: for each of its dead letters reason, kind, detail, attempt, received (ms), body, digest of
--         the notification in hex, names of the handlers that did not succeed, digests in hex of those that did; the
--         records of its retries, of its heads, and of what waits behind; its parts; what is to be remembered, as one value
--         with a line for each event: bucket (octal), member, and of a status the markers of earlier stages of its message;
--         and the claims that end, one a line
-- Returns how many partitions this worker should give to others; the lanes of these batches that are paused; those that
-- have a cap; and for each batch lost: another worker has it, nothing was done; or more, end or back: done as asked.
--
-- allow-oom: settling makes room.
-- include ingest/store/queues.lua
-- include ingest/store/checks.lua
-- constants CHUNK FLOW_SECONDS FLOW_KEPT_SECONDS CALLS_KEPT_SECONDS SPENT_MS SEEN_FULL SLOTS_PER_SECOND PARKED_RECORDS
-- constants PARKED_BYTES HEADER_BYTES SPELL_SECONDS
local ledger, taken, leases, counts, claims, generations, spent, deaths, steering, tally, wanted = unpack(KEYS)
local turn, parked, put_off, heads, owed, failures = unpack(KEYS, 12)
local it = cjson.decode(ARGV[1])
local rq, wa = it.rq, it.wa

local time, now -- by Redis' clock; set below, before the functions run

-- include ingest/store/doorbell.lua

-- include workers/engine/order.lua
local touched = {} -- strict orders in which something ended, or waits now
local LETTER_VALUES = 9

-- Reads the dead letters of a batch from the arguments at `position`.
local function write_letters(one, lane, position)
  for _ = 1, one.letters do
    local reason, kind, detail, attempt, received, body, origin, handler, done =
      unpack(ARGV, position, position + LETTER_VALUES - 1)
    redis.call('XADD', wa .. 'dead:' .. lane, '*', 'reason', reason, 'kind', kind, 'detail', detail,
      'attempt', attempt, 'received', received, 'queue', one.queue, 'body', body, 'origin', origin,
      'handler', handler, 'done', done)
    redis.call('HINCRBY', tally, 'dead|' .. lane .. '|' .. reason, 1)
    position = position + LETTER_VALUES
  end
end

-- The batch of what waits for that time in this queue, and its bytes, if it may be joined: it is still parked, and no
-- worker has it (`rq requeue`).
local function joinable(queue, slot, due)
  local id, bytes = (redis.call('HGET', parked, slot) or ''):match('^(.*)|(%d+)$')
  if id and tonumber(redis.call('ZSCORE', rq .. ':scheduled:' .. queue, id)) == due
    and redis.call('HEXISTS', taken, member_of(queue, id)) == 0 then
    return id, tonumber(bytes)
  end
end

local function open_parked(queue, name, due, sort, order)
  local id = name .. '-' .. redis.call('INCR', turn) .. (order and '-o' .. order or '')
  redis.call('ZADD', rq .. ':scheduled:' .. queue, due, id)
  redis.call('HSET', rq .. ':job:' .. id, unpack(job_of(it.template, id, queue, it.now)))
  redis.call('HSET', rq .. ':job:' .. id, 'status', 'scheduled')
  if sort == 'w' then
    redis.call('SADD', put_off, member_of(queue, id))
  end
  ring(lane_of(queue)) -- an idle worker learns when it is due
  return id
end

local function due_at(delay, step)
  return delay > 0 and math.ceil((now + delay) / step) * step or now
end

local function name_of(sort, due, whom)
  return sort .. string.format('%d', due * SLOTS_PER_SECOND) .. (whom ~= '' and 'h' .. whom or '')
end

-- Parks the records from `first` to `last` of the arguments until they are due, in as few batches as possible: in one
-- that others of this queue wait in for the same time and handlers, as long as that has room, and then in another.
local function park(queue, sort, delay, step, whom, first, last)
  local due = due_at(delay, step)
  local name = name_of(sort, due, whom)
  local slot = member_of(queue, name)
  local id, bytes = joinable(queue, slot, due)
  local count = id and redis.call('LLEN', wa .. 'batch:' .. id)
  while first <= last do
    if not id or count >= PARKED_RECORDS or bytes + #ARGV[first] > PARKED_BYTES then
      id, count, bytes = open_parked(queue, name, due, sort), 0, 0
    end
    local upto, arrived = first - 1, math.huge
    repeat
      upto, count, bytes = upto + 1, count + 1, bytes + #ARGV[upto + 1]
      arrived = math.min(arrived, (struct.unpack('>I6', ARGV[upto])))
    until upto == last or count >= PARKED_RECORDS or bytes + #ARGV[upto + 1] > PARKED_BYTES
    redis.call('RPUSH', wa .. 'batch:' .. id, unpack(ARGV, first, upto))
    redis.call('ZADD', ledger, 'LT', arrived, member_of(queue, id))
    first = upto + 1
  end
  redis.call('HSET', parked, slot, id .. '|' .. bytes)
end

-- Reads the records of a batch that are to be tried again from the arguments at `position`.
local function write_retries(one, position)
  for _, retry in ipairs(one.retries) do
    local sort, delay, step, whom, count = unpack(retry)
    park(one.queue, sort, delay, step, whom, position, position + count - 1)
    position = position + count
  end
end

-- Parks a record alone: from now on it is the head of its order. If that has another one, the record waits behind it.
local function write_head(one, head, record)
  local order, sort, delay, step, whom = unpack(head)
  if has_head(order) and redis.call('HGET', heads, order) ~= member_of(one.queue, one.batch) then
    redis.call('RPUSH', list_of(order), one.queue .. '|' .. record)
    return
  end
  local due = due_at(delay, step)
  local id = open_parked(one.queue, name_of(sort, due, whom), due, sort, order)
  redis.call('RPUSH', wa .. 'batch:' .. id, record)
  redis.call('ZADD', ledger, (struct.unpack('>I6', record)), member_of(one.queue, id))
  redis.call('HSET', heads, order, member_of(one.queue, id))
end

-- Reads the heads of a batch, and what waits behind, from the arguments at `position`. What was next in an order is
-- older than all that waits in it already.
local function write_orders(one, position)
  for n, head in ipairs(one.heads) do
    write_head(one, head, ARGV[position + n - 1])
  end
  position = position + #one.heads
  local mine = order_in(one.batch)
  for n = #one.behind, 1, -1 do
    if one.behind[n] == mine then
      redis.call('LPUSH', list_of(mine), one.queue .. '|' .. ARGV[position + n - 1])
    end
  end
  for n, order in ipairs(one.behind) do
    if order ~= mine then
      redis.call('RPUSH', list_of(order), one.queue .. '|' .. ARGV[position + n - 1])
    end
    touched[order] = true
  end
end

-- What waits in an order that has no head any more goes on.
local function go_on()
  for order in pairs(touched) do
    if not has_head(order) then
      release(order)
    end
  end
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

local current, digits -- the generation, once it is needed
local added = 0

-- Remembers events that are done, given as lines.
local function remember(done)
  if done == '' then
    return
  end
  if not current then
    current, digits = generation()
  end
  local prefix = wa .. 'seen:' .. current .. ':'
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
  end
end

local freed = {}

-- Ends claims, given as lines.
local function free(ended)
  for claim in ended:gmatch('[^\n]+') do
    freed[#freed + 1] = claim
    if #freed == CHUNK then
      redis.call('HDEL', claims, unpack(freed))
      freed = {}
    end
  end
end

local function flow_key()
  return wa .. 'flow:' .. math.floor(time[1] / FLOW_SECONDS)
end

-- Calls of handlers, and the events of lists, are counted once more in the bucket of the moment, for their rates.
local function count_lately()
  local flow, any = flow_key(), false
  for field, count in pairs(it.tally) do
    local is_sum = field:find('|sum$')
    if (field:find('^handler|') and not is_sum) or (field:find('^list|') and is_sum) or field:find('^error|') then
      redis.pcall('HINCRBY', flow, field, count)
      any = true
    end
  end
  if any then
    redis.call('EXPIRE', flow, FLOW_KEPT_SECONDS)
  end
end

local function count_events()
  for outcome, count in pairs(it.counts) do
    redis.call('HINCRBY', counts, outcome, count)
  end
  for field, count in pairs(it.tally) do
    if not field:find('^error|') then -- of the moment alone
      redis.pcall('HINCRBY', tally, field, count) -- a counter must not end a settle half-way
    end
    local handler = field:match('^(handler|.+|)sum$')
    if handler then
      redis.call('HSET', tally, handler .. 'seen', time[1])
    end
  end
end

-- Notes how handlers fail. A spell of failures goes on until there was none for some time: nobody tells of successes.
local function note_failures()
  for handler, error in pairs(it.failures) do
    local known = redis.call('HGET', failures, handler)
    local last, since = (known or ''):match('^(%d+) (%d+) ')
    if not last or time[1] - last > SPELL_SECONDS then
      since = time[1]
    end
    redis.call('HSET', failures, handler, time[1] .. ' ' .. since .. ' ' .. error)
  end
end

local left = {} -- records that left their batches for good, by lane

local function remove_records(one, lane)
  if one.records > 0 then
    redis.call('LTRIM', wa .. 'batch:' .. one.batch, one.records, -1)
    left[lane] = (left[lane] or 0) + one.records - one.again
  end
end

-- Puts the parts of a batch, which begin at `position` of the arguments, in front of its records.
local function write_parts(one, lane, position)
  for n = position + one.parts - 1, position, -1 do
    redis.call('LPUSH', wa .. 'batch:' .. one.batch, ARGV[n])
  end
  left[lane] = (left[lane] or 0) - one.parts
end

local function count_records()
  local flow = flow_key()
  for lane, count in pairs(left) do
    redis.call('HINCRBY', flow, (count < 0 and 'in.' or 'out.') .. lane, math.abs(count))
    redis.call('EXPIRE', flow, FLOW_KEPT_SECONDS)
  end
end

-- Adds to the lanes' recent work.
local function share_work()
  local total = 0
  for lane, ms in pairs(it.spent) do
    total = total + redis.call('HINCRBY', spent, lane, ms)
  end
  if total > SPENT_MS then
    local shares = redis.call('HGETALL', spent)
    for i = 1, #shares, 2 do
      redis.call('HSET', spent, shares[i], math.floor(shares[i + 1] / 2))
    end
  end
end

-- The worker has one batch less of this partition; with the last one the partition is free.
local function give_lease_back(queue)
  local lease = redis.call('HGET', leases, queue)
  if not lease then
    return
  end
  local holder, count = lease:match('^(.*)|(%d+)$')
  if holder == it.worker and tonumber(count) > 1 then
    redis.call('HSET', leases, queue, holder .. '|' .. (count - 1))
  elseif holder == it.worker then
    redis.call('HDEL', leases, queue)
  end
end

-- Takes the batch from the worker.
local function let_go(one, lane, member)
  local queue, id = one.queue, one.batch
  redis.call('HDEL', taken, member)
  give_lease_back(queue)
  if redis.call('EXISTS', wa .. 'batch:' .. id) == 1 then
    -- Its rest goes back. After `end` there is one only if redis-py sent a receiver's commit twice and it came late.
    redis.call('LPUSH', rq .. ':queue:' .. queue, id)
    redis.call('HSET', rq .. ':job:' .. id, 'status', 'queued', 'ahead', 0)
  else
    redis.call('DEL', rq .. ':job:' .. id)
    redis.call('ZREM', ledger, member)
    redis.call('HDEL', deaths, member)
    touched[order_in(id) or ''] = true
  end
  if redis.call('LLEN', rq .. ':queue:' .. queue) > 0 then
    ring(lane) -- the partition may be free again
  end
end

-- Settles one batch, whose values begin at `position` of the arguments. Returns its reply.
local function settle(one, position)
  local member, lane = member_of(one.queue, one.batch), lane_of(one.queue)
  if redis.call('HGET', taken, member) ~= one.token then
    return 'lost'
  end
  write_letters(one, lane, position)
  position = position + LETTER_VALUES * one.letters
  write_retries(one, position)
  for _, retry in ipairs(one.retries) do
    position = position + retry[5]
  end
  write_orders(one, position)
  position = position + #one.heads + #one.behind
  remove_records(one, lane)
  write_parts(one, lane, position)
  position = position + one.parts
  remember(ARGV[position])
  free(ARGV[position + 1])
  if one.how ~= 'more' then
    let_go(one, lane, member)
  else
    redis.call('HSET', rq .. ':job:' .. one.batch, 'ahead', one.ahead) -- for reap.lua
  end
  return one.how
end

local function values_of(one)
  local count = LETTER_VALUES * one.letters + #one.heads + #one.behind + one.parts + 2
  for _, retry in ipairs(one.retries) do
    count = count + retry[5]
  end
  return count
end

local function check_wait(sort, delay, step, whom)
  if text(sort) == '' or finite(delay) < 0 or finite(step) <= 0 or not text(whom):find('^%x*$') then
    error('not a wait')
  end
end

local function check_order(order, record)
  if not text(order):find('^%x+$') then
    error('not a strict order')
  elseif #text(record) < HEADER_BYTES then
    error('not a record')
  end
end

-- Fails when something is wrong with a batch, whose values begin at `position` of the arguments.
local function check_batch(one, position)
  whole(one.records - whole(one.again))
  whole(one.ahead)
  position = position + LETTER_VALUES * whole(one.letters)
  text(lane_of(one.queue))
  text(text(one.token) .. text(one.batch) .. text(one.how))
  for _, retry in ipairs(one.retries) do
    local sort, delay, step, whom, count = unpack(retry)
    check_wait(sort, delay, step, whom)
    if whole(count) == 0 then
      error('not a retry')
    end
    job_of(it.template, one.batch, one.queue, it.now)
    for _ = 1, count do
      if #text(ARGV[position]) < HEADER_BYTES then
        error('not a record')
      end
      position = position + 1
    end
  end
  for _, head in ipairs(one.heads) do
    local order, sort, delay, step, whom = unpack(head)
    check_order(order, ARGV[position])
    check_wait(sort, delay, step, whom)
    job_of(it.template, one.batch, one.queue, it.now)
    position = position + 1
  end
  for _, order in ipairs(one.behind) do
    check_order(order, ARGV[position])
    position = position + 1
  end
  for _ = 1, whole(one.parts) do
    text(ARGV[position])
    position = position + 1
  end
end

-- Fails when something is wrong with what is to be settled.
local function check()
  text(text(rq) .. text(wa) .. text(it.worker) .. text(it.now))
  whole(it.call)
  finite(it.window)
  for _, amounts in ipairs({ it.counts, it.tally, it.spent }) do
    for _, amount in pairs(amounts) do
      whole(amount)
    end
  end
  for _, names in ipairs({ it.owed, it.failures }) do
    for _, said in pairs(names) do
      text(said)
    end
  end
  for _, tokens in pairs(it.unused) do
    finite(tokens)
  end
  for _, lane in ipairs(it.ring) do
    text(lane)
  end
  local position = 2
  for _, one in ipairs(it.batches) do
    check_batch(one, position)
    position = position + values_of(one)
  end
  if position ~= #ARGV + 1 then
    error('too many values, or too few')
  end
end

-- Which lanes of these batches are paused, and which have a cap.
local function read_steering()
  local paused, capped, known = {}, {}, {}
  for _, one in ipairs(it.batches) do
    local lane = lane_of(one.queue)
    if not known[lane] then
      known[lane] = true
      local stopped, limit = unpack(redis.call('HMGET', steering, 'paused.' .. lane, 'limit.' .. lane))
      paused[#paused + 1] = stopped and lane or nil
      capped[#capped + 1] = limit and lane or nil
    end
  end
  return paused, capped
end

local paused, capped = read_steering()
local replies = { 0, paused, capped }
-- redis-py sends a call again when its connection breaks, or Redis hangs, before the answer comes; and a Redis that
-- hung still carries out what it was sent, however late. Each call counts once.
local calls = wa .. 'calls:' .. it.worker
if it.call <= tonumber(redis.call('GET', calls) or 0) then
  for _, one in ipairs(it.batches) do
    replies[#replies + 1] = one.how
  end
  return replies
end
check()
redis.call('SET', calls, it.call, 'EX', CALLS_KEPT_SECONDS)
time = redis.call('TIME')
now = time[1] + time[2] / 1000000

local position, any = 2, false
for _, one in ipairs(it.batches) do
  local reply = settle(one, position)
  any = any or reply ~= 'lost'
  replies[#replies + 1] = reply
  position = position + values_of(one)
end
touched[''] = nil
go_on()
if #freed > 0 then
  redis.call('HDEL', claims, unpack(freed))
end
if added > 0 then
  redis.call('HINCRBY', generations, current .. '.count', added)
end
for lane, tokens in pairs(it.unused) do
  redis.call('HINCRBYFLOAT', steering, 'tokens.' .. lane, tokens)
end
for _, lane in ipairs(it.ring) do
  ring(lane)
end
if any then
  count_events()
  count_lately()
  count_records()
  share_work()
  note_failures()
  for whom, names in pairs(it.owed) do
    redis.call('HSET', owed, whom, names)
  end
end
local share = redis.call('HGET', wanted, it.worker)
if share then
  redis.call('HDEL', wanted, it.worker)
  replies[1] = tonumber(share)
end
return replies
