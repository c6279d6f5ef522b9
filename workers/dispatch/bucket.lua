-- A bucket of tokens, in the fields `tokens.NAME` and `at.NAME` of a hash: `rate` tokens come in each second, and each
-- event takes one. It holds TOKENS_SECONDS' worth, at least one, and gives none before it is half full, so that workers
-- do not ask for one at a time. Tokens of a worker that crashes are lost; the cap is never exceeded.
--
-- Returns how many tokens there are, and the seconds until it gives some (0: now).
-- constants TOKENS_SECONDS
local function look(hash, name, rate, now)
  local tokens, at = unpack(redis.call('HMGET', hash, 'tokens.' .. name, 'at.' .. name))
  local holds = math.max(1, rate * TOKENS_SECONDS)
  local since = math.max(0, now - (tonumber(at) or now)) -- Redis' clock may have been set back
  tokens = math.min(holds, (tonumber(tokens) or holds) + since * rate)
  return tokens, math.max(0, (math.max(1, holds / 2) - tokens) / rate)
end

-- Takes out at most `most`. Returns how many, and, if that is 0, the seconds until there are some.
local function grant(hash, name, rate, now, most)
  local tokens, wait = look(hash, name, rate, now)
  local given = wait == 0 and math.min(most, math.floor(tokens)) or 0
  redis.call('HSET', hash, 'tokens.' .. name, tokens - given, 'at.' .. name, now)
  return given, wait
end
