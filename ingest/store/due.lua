-- Makes a batch that waits for its next try due now: since it arrived, so it is taken in order of arrival among all that is
-- due. True if it was waiting. Uses the locals rq, wa, ledger, parked and ring of the script that includes it, and
-- queues.lua.
local function make_due(member)
  local queue, id = queue_and_id(member)
  local arrived = tonumber(redis.call('ZSCORE', ledger, member) or 0) / 1000
  -- If it is not there any more, it was due before.
  if redis.call('ZADD', rq .. ':scheduled:' .. queue, 'XX', 'CH', arrived, id) == 0 then
    return false
  end
  if not order_in(id) then
    redis.call('HDEL', parked, slot_of(queue, id)) -- nothing joins it any more
  end
  ring(lane_of(queue))
  return true
end
