#!lua flags=allow-oom
-- An operator has batches tried now that wait for their next try. No record changes, so no try is used up by that.
--
-- KEYS  1 parked   2 ledger
-- ARGV  1 rq's key prefix   2 our key prefix   then the batches, each as QUEUE|ID
-- Returns for each batch how many records of it are due by that; 0 when it did not wait any more.
--
-- allow-oom: handling is what makes room.
-- include ingest/store/queues.lua
-- include ingest/store/checks.lua
local parked, ledger = unpack(KEYS)
local rq, wa = text(ARGV[1]), text(ARGV[2])
-- include ingest/store/doorbell.lua
-- include ingest/store/due.lua

for n = 3, #ARGV do
  if not queue_and_id(ARGV[n]) then
    error('not a batch')
  end
end

local due = {}
for n = 3, #ARGV do
  local _, id = queue_and_id(ARGV[n])
  due[#due + 1] = make_due(ARGV[n]) and redis.call('LLEN', wa .. 'batch:' .. id) or 0
end
return due
