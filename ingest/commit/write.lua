#!lua
-- Writes what a receiver has collected: appends it as append.lua does, and keeps which user id belongs to which contact.
-- All or nothing.
--
-- KEYS  1 ledger   2 tails   3 queues   4 links:G of this generation   5 links:G of the one before
-- ARGV  1 rq's key prefix   2 our key prefix   3 id of this flush, unique   4 job template (see ingest/store/jobs.py)
--       5 notifications in a batch at most   6 bytes in a batch at most   7 time as RQ writes it
--       then for each queue: name, number of records, the records; and at the end
--       new links, LINK_DIGEST_BYTES and 4 each (see ingest/store/links.py)
--       digests of user ids that this receiver knows no link of
--       '1' if nothing is to be written when there is a link of one of these: then the receiver routes again
--       when this generation is forgotten (epoch seconds)
-- Returns the links of these digests that there are.
-- constants LINK_DIGEST_BYTES MOST_LINKS
local function append(KEYS, ARGV)
  -- include ingest/store/append.lua
end

local links, before = KEYS[4], KEYS[5]
local ends, hold = table.remove(ARGV), table.remove(ARGV)
if not ends:match('^%d+$') then -- before anything is written
  error('not a time')
end
local asked, fresh = table.remove(ARGV), table.remove(ARGV)

local function keep(digest, key)
  local count = redis.call('HLEN', links)
  if count >= MOST_LINKS and redis.call('HEXISTS', links, digest) == 0 then
    redis.call('HDEL', links, redis.call('HRANDFIELD', links))
  end
  redis.call('HSET', links, digest, key)
  if count == 0 then
    redis.call('EXPIREAT', links, ends)
  end
end

local found, used = {}, {}
for at = 1, #asked, LINK_DIGEST_BYTES do
  local digest = asked:sub(at, at + LINK_DIGEST_BYTES - 1)
  local key = redis.call('HGET', links, digest)
  if not key then
    key = redis.call('HGET', before, digest)
    used[digest] = key or nil -- it is in use
  end
  if key then
    found[#found + 1] = digest .. key
  end
end
if #found == 0 or hold ~= '1' then
  append(KEYS, ARGV) -- it fails before it writes, if it fails
end
for digest, key in pairs(used) do
  keep(digest, key)
end
if #found > 0 and hold == '1' then
  return table.concat(found)
end

for at = 1, #fresh, LINK_DIGEST_BYTES + 4 do
  local key = at + LINK_DIGEST_BYTES
  keep(fresh:sub(at, key - 1), fresh:sub(key, key + 3))
end
return table.concat(found)
