#!lua flags=allow-oom
-- A handler works again, or a worker starts that may have a better one: what was put off is due now.
--
-- KEYS  1 put_off   2 parked
-- ARGV  1 rq's key prefix   2 our key prefix
-- Returns how many batches are left: there is a limit to what one call does.
--
-- allow-oom: handling is what makes room.
-- include ingest/store/queues.lua
-- constants REVIVED
local put_off, parked = unpack(KEYS)
local rq, wa = ARGV[1], ARGV[2]
-- include ingest/store/doorbell.lua
local now = redis.call('TIME')[1]

for _, member in ipairs(redis.call('SPOP', put_off, REVIVED)) do
  local queue, id = queue_and_id(member)
  -- If it is not there any more, it was due before.
  if redis.call('ZADD', rq .. ':scheduled:' .. queue, 'XX', 'CH', now, id) == 1 then
    redis.call('HDEL', parked, slot_of(queue, id))
    ring(lane_of(queue))
  end
end
return redis.call('SCARD', put_off)
