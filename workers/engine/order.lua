-- Strict order, for scripts: what waits behind a contact's event that is to be tried again (see orders.py).
--
-- `heads` has of each such order the batch, QUEUE|ID, whose events are next; its id names the order (`order_in`). Others
-- wait in `behind:ORDER`, each as QUEUE|RECORD. There is a list only while `heads` knows its order.
--
-- Uses the locals rq, wa, ledger, turn, heads and ring of the script that includes it.
-- constants RELEASED RELEASED_BYTES

local function list_of(order)
  return wa .. 'behind:' .. order
end

-- True when the order has a batch that is still owed.
local function has_head(order)
  local head = redis.call('HGET', heads, order)
  return head and redis.call('ZSCORE', ledger, head)
end

-- What waits first becomes the next batch, at the front of its queue; if nothing does, the order is over.
local function release(order)
  local list = list_of(order)
  local queue = (redis.call('LINDEX', list, 0) or ''):match('^(.-)|')
  if not queue then
    redis.call('HDEL', heads, order)
    return
  end
  local id = 'o' .. redis.call('INCR', turn) .. '-o' .. order
  local records, bytes, arrived = {}, 0, math.huge
  repeat
    local record = redis.call('LPOP', list):sub(#queue + 2)
    records[#records + 1] = record
    bytes, arrived = bytes + #record, math.min(arrived, (struct.unpack('>I6', record)))
    local more = redis.call('LINDEX', list, 0)
  until not more or #records == RELEASED or bytes + #more > RELEASED_BYTES or more:match('^(.-)|') ~= queue
  redis.call('RPUSH', wa .. 'batch:' .. id, unpack(records))
  redis.call('ZADD', ledger, arrived, member_of(queue, id))
  redis.call('HSET', heads, order, member_of(queue, id))
  redis.call('LPUSH', rq .. ':queue:' .. queue, id)
  ring(lane_of(queue))
end
