#!lua flags=allow-oom
-- Gives a worker tokens of a bucket (bucket.lua).
--
-- KEYS  1 rates or steering
-- ARGV  1 its name   2 events per second; empty: what the hash says in `limit.NAME`   3 tokens that come back
-- Returns {tokens, milliseconds until there are some when they are 0}; -1 tokens: there is no cap any more.
--
-- allow-oom: handling is what makes room.
-- include workers/dispatch/bucket.lua
local hash, name, rate = KEYS[1], ARGV[1], tonumber(ARGV[2])
if not rate then
  rate = tonumber(redis.call('HGET', hash, 'limit.' .. name))
  if not rate then
    return { -1, 0 }
  end
end
if ARGV[3] ~= '0' then
  redis.call('HINCRBYFLOAT', hash, 'tokens.' .. name, ARGV[3])
end
local time = redis.call('TIME')
local given, wait = grant(hash, name, rate, time[1] + time[2] / 1000000, math.huge)
return { given, math.ceil(wait * 1000) }
