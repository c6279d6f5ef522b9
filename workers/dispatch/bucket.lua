-- A bucket of tokens, in the fields `tokens.NAME` and `at.NAME` of a hash. What is capped at `rate` a second takes one
-- for each event. It holds those of TOKENS_SECONDS, at least one, and gives none before it is half full: so nobody comes
-- for one at a time. Who crashes with tokens has lost them; the cap is never exceeded.
--
-- How many there are, and in how many seconds it gives some (0: now).
-- constants TOKENS_SECONDS
local function look(hash, name, rate, now)
  local tokens, at = unpack(redis.call('HMGET', hash, 'tokens.' .. name, 'at.' .. name))
  local holds = math.max(1, rate * TOKENS_SECONDS)
  local since = math.max(0, now - (tonumber(at) or now)) -- Redis' clock may have been set back
  tokens = math.min(holds, (tonumber(tokens) or holds) + since * rate)
  return tokens, math.max(0, (math.max(1, holds / 2) - tokens) / rate)
end

-- Takes at most so many out: their number, and in how many seconds there are more when that is 0.
local function grant(hash, name, rate, now, most)
  local tokens, wait = look(hash, name, rate, now)
  local given = wait == 0 and math.min(most, math.floor(tokens)) or 0
  redis.call('HSET', hash, 'tokens.' .. name, tokens - given, 'at.' .. name, now)
  return given, wait
end
