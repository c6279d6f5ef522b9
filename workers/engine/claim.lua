#!lua flags=allow-oom
-- Claims events for a batch, and says which of them to handle.
--
-- KEYS  1 taken   2 claims   3 generations   4 heads
-- ARGV  1 our key prefix   2 the batch, QUEUE|ID
--       3 a line for each event, at most some thousand: bucket (octal), member, and optionally `also` and an earlier
--       member that means the same event; or, of a status, `of`, its message, and the marker of a later stage of that
--       message (- when there is none); or `in` and the event's strict order
-- Returns a character for each event: 0 go on, 1 duplicate, 2 go on but a later stage was handled, 3 ask again later:
-- another batch has a status of the same message in work. 4 wait behind an earlier event of the strict order; 5 go on,
-- others wait behind this batch.
--
-- A redis.call costs about as much as a dozen steps of Lua, so one call serves many events where it can.
local taken, claims, generations, heads = unpack(KEYS)
local wa, me = ARGV[1], ARGV[2]

local sets = {} -- of each generation: where the names of its sets begin, and how many digits follow
local described = redis.call('HGETALL', generations)
for i = 1, #described, 2 do
  if not described[i]:find('.', 1, true) then
    sets[#sets + 1] = { wa .. 'seen:' .. described[i] .. ':', tonumber(described[i + 1]) }
  end
end

local function seen(bucket, member)
  for _, set in ipairs(sets) do
    if redis.call('SISMEMBER', set[1] .. bucket:sub(1, set[2]), member) == 1 then
      return '1'
    end
  end
  return '0'
end

local function seen_or_superseded(bucket, member, later)
  local reply = '0'
  for _, set in ipairs(sets) do
    local found = redis.call('SMISMEMBER', set[1] .. bucket:sub(1, set[2]), member, later)
    if found[1] == 1 then
      return '1'
    elseif found[2] == 1 then
      reply = '2'
    end
  end
  return reply
end

-- A claim counts while a worker has its batch. A batch that went back may be divided, or wait for the one that asks.
local function others(holder)
  return holder and holder ~= me and redis.call('HEXISTS', taken, holder) == 1
end

local buckets, members, more, fields = {}, {}, {}, {}
for bucket, member, rest in ARGV[3]:gmatch('(%d+) ([^ \n]+)([^\n]*)') do
  local n = #members + 1
  buckets[n], members[n], more[n] = bucket, member, rest
  fields[n] = rest:match('^ of (%S+)') or member
end
if #members == 0 then
  return ''
end

local first = {} -- of each strict order in which something waits: the batch that is next
if ARGV[3]:find(' in ', 1, true) then
  local orders = {}
  for order in ARGV[3]:gmatch(' in (%x+)') do
    orders[#orders + 1] = order
  end
  for n, batch in ipairs(redis.call('HMGET', heads, unpack(orders))) do
    first[orders[n]] = batch or nil
  end
end

-- What to answer about an event whose claim another batch has, or nobody.
local function reply_to(n, held)
  local message, later = more[n]:match('^ of (%S+) (%S+)$')
  if message then
    local found = later == '-' and seen(buckets[n], members[n]) or seen_or_superseded(buckets[n], members[n], later)
    return found ~= '1' and held and '3' or found
  end
  if held or seen(buckets[n], members[n]) == '1' then
    return '1'
  end
  local head = next(first) and first[more[n]:match('^ in (%x+)$')]
  if head then
    return head == me and '5' or '4'
  end
  local other = more[n]:match('^ also (.+)$')
  return other and (others(redis.call('HGET', claims, other)) or seen(buckets[n], other) == '1') and '1' or '0'
end

-- A long value makes Redis store the hash as a table. In the list that it prefers for small hashes, every look-up would
-- scan half of it.
local mine, replies = { '', ('-'):rep(65) }, {}
local holders = redis.call('HMGET', claims, unpack(fields))
for n in ipairs(members) do
  local reply = reply_to(n, others(holders[n]))
  if reply ~= '1' and reply ~= '3' then
    mine[#mine + 1] = fields[n]
    mine[#mine + 1] = me
  end
  replies[n] = reply
end
redis.call('HSET', claims, unpack(mine))
return table.concat(replies)
