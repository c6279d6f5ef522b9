#!lua flags=allow-oom
-- Claims events for a batch: says of each whether it is to be handled.
--
-- KEYS  1 ledger   2 claims of batches in work: digest -> QUEUE|ID   3 generations of what is remembered
-- ARGV  1 our key prefix   2 the batch, QUEUE|ID
--       then for each event: digest (member, bucket), an earlier digest that means the same (member or empty, bucket),
--       number of digests that say that a later stage was handled, these digests (member, bucket)
-- Returns a character for each event: 0 go on, 1 duplicate, 2 go on but a later stage was handled.
local ledger, claims, generations = unpack(KEYS)
local wa, me = ARGV[1], ARGV[2]

local sets = {} -- name prefix and number of sets of each generation
local described = redis.call('HGETALL', generations)
for i = 1, #described, 2 do
  local id = described[i]:match('^(%d+)$')
  if id then
    sets[#sets + 1] = { wa .. 'seen:' .. id .. ':', tonumber(described[i + 1]) }
  end
end

local function seen(member, bucket)
  for _, set in ipairs(sets) do
    if redis.call('SISMEMBER', set[1] .. bucket % set[2], member) == 1 then
      return true
    end
  end
  return false
end

-- A claim counts while its batch is owed: not when the batch was split, ended as a dead letter, or lost by Redis.
local function others(digest)
  local holder = redis.call('HGET', claims, digest)
  return holder and holder ~= me and redis.call('ZSCORE', ledger, holder)
end

-- A long value makes Redis keep the hash as a table: as a list, which it prefers for small hashes, every look-up would
-- read half of it.
redis.call('HSET', claims, '', ('-'):rep(65))

local replies = {}
local i = 3
while ARGV[i] do
  local member, bucket, also, also_bucket, later = unpack(ARGV, i, i + 4)
  local reply = '0'
  if others(member .. ':' .. bucket) or seen(member, bucket)
    or also ~= '' and (others(also .. ':' .. also_bucket) or seen(also, also_bucket)) then
    reply = '1'
  else
    redis.call('HSET', claims, member .. ':' .. bucket, me)
    for n = 1, tonumber(later) do
      if seen(ARGV[i + 3 + 2 * n], ARGV[i + 4 + 2 * n]) then
        reply = '2'
        break
      end
    end
  end
  replies[#replies + 1] = reply
  i = i + 5 + 2 * tonumber(later)
end
return table.concat(replies)
