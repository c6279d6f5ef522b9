-- The names of queues and of batches in them, as queues.py has them.
local function lane_of(queue)
  return queue:match('^[^.]+')
end

local function member_of(queue, id)
  return queue .. '|' .. id
end

-- The queue and the id of a batch, from QUEUE|ID.
local function queue_and_id(member)
  return member:match('^(.-)|(.*)$')
end

-- The strict order of which a batch is next, from its id; nil for most.
local function order_in(id)
  return id:match('%-o(%x+)')
end

-- The field of `parked` that names a batch, or would: what is parked has its due time in its name, and whom it is owed to.
local function slot_of(queue, id)
  return member_of(queue, id:match('^%a%d+h?%x*') or '')
end
