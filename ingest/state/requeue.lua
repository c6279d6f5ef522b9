#!lua
-- Requeues dead letters: appends them to batches, as append.lua does, and deletes them from the stream. All or nothing.
--
-- KEYS  1 ledger   2 tails   3 queues   4 dead:LANE   5 counts
-- ARGV  1 rq's key prefix   2 our key prefix   3 id of this flush, unique   4 job template (see ingest/store/jobs.py)
--       5 notifications in a batch at most   6 bytes in a batch at most   7 time as RQ writes it
--       then for each record: id of its letter, queue, record; a letter that belongs to several partitions has several
-- Returns the number of letters requeued: those that somebody else requeued or dropped meanwhile are left out.
local function append(KEYS, ARGV)
  -- include ingest/store/append.lua
end

local dead, counts = KEYS[4], KEYS[5]
local ids, names, records, there = {}, {}, {}, {}

for i = 8, #ARGV, 3 do
  local id, queue, record = unpack(ARGV, i, i + 2)
  if there[id] == nil then
    there[id] = #redis.call('XRANGE', dead, id, id) == 1
    if there[id] then
      ids[#ids + 1] = id
    end
  end
  if there[id] then
    if not records[queue] then
      names[#names + 1] = queue
      records[queue] = {}
    end
    table.insert(records[queue], record)
  end
end

if #ids == 0 then
  return 0
end
local arguments = { unpack(ARGV, 1, 7) }
for _, queue in ipairs(names) do
  table.insert(arguments, queue)
  table.insert(arguments, #records[queue])
  for _, record in ipairs(records[queue]) do
    table.insert(arguments, record)
  end
end
append({ unpack(KEYS, 1, 3) }, arguments)
redis.call('HINCRBY', counts, 'requeued', #ids) -- see ingest/state/totals.py
return redis.call('XDEL', dead, unpack(ids)) -- last: an error above must not lose a dead letter
