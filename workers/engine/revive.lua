#!lua flags=allow-oom
-- A handler works again, or a worker starts that may have a better one: what was put off is due now.
--
-- KEYS  1 queues
-- ARGV  1 rq's key prefix   2 our key prefix
-- Returns how many batches.
--
-- allow-oom: handling is what makes room.
-- include ingest/store/queues.lua
local rq, wa = ARGV[1], ARGV[2]
local count = 0
local now = redis.call('TIME')[1]

for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local queue = key:sub(#rq + 8) -- after "rq:queue:"
  local scheduled, found = rq .. ':scheduled:' .. queue, 0
  for _, id in ipairs(redis.call('ZRANGE', scheduled, 0, -1)) do
    if id:sub(1, 1) == 'w' then -- see `put_off` in workers/engine/batch_state.py
      redis.call('ZADD', scheduled, now, id)
      found = found + 1
    end
  end
  local doorbell = wa .. 'doorbell:' .. lane_of(queue)
  if found > 0 and redis.call('LLEN', doorbell) == 0 then
    redis.call('RPUSH', doorbell, 1)
  end
  count = count + found
end
return count
