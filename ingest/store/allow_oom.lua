#!lua flags=allow-oom
-- Runs commands even when Redis is full, one after the other, as MULTI and EXEC would.
--
-- KEYS  1 ledger, whatever the commands are: in a cluster a script needs a key (scripts.py)
-- ARGV  then for each command: the number of its words, the words
-- Returns for each a list with its answer, which may be an error; empty when the answer is null.
redis.setresp(3) -- as on redis-py's connections; else a hash would come as a list
local replies = {}
local at = 1
while at < #ARGV do
  local last = at + ARGV[at]
  replies[#replies + 1] = { redis.pcall(unpack(ARGV, at + 1, last)) }
  at = last + 1
end
return replies
