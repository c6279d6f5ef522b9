#!lua flags=allow-oom
-- A handler works again, or a worker starts that may have a better one: what was put off is due now.
--
-- It is due since it arrived: so it is taken in the order in which it arrived, whenever its next try would have been.
--
-- KEYS  1 put_off   2 parked   3 ledger
-- ARGV  1 rq's key prefix   2 our key prefix
-- Returns how many batches are left: there is a limit to what one call does.
--
-- allow-oom: handling is what makes room.
-- include ingest/store/queues.lua
-- constants REVIVED
local put_off, parked, ledger = unpack(KEYS)
local rq, wa = ARGV[1], ARGV[2]
-- include ingest/store/doorbell.lua
-- include ingest/store/due.lua

for _, member in ipairs(redis.call('SPOP', put_off, REVIVED)) do
  make_due(member)
end
return redis.call('SCARD', put_off)
