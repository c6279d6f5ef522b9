#!lua flags=no-writes
-- Says what was last seen of contacts.
--
-- KEYS  1 how the names of this generation's hashes begin   2 the same of the generation before
-- ARGV  1 places of contacts, 10 bytes each: 2 say which hash, 8 are the field in it
-- Returns 22 bytes for each: 1 if it was found in this generation, else 0; then what is remembered, zeros for nothing.
local this, before = unpack(KEYS)
local NOTHING = ('\0'):rep(21)

local found = {}
for at = 1, #ARGV[1], 10 do
  local hash, field = struct.unpack('>I2', ARGV[1], at), ARGV[1]:sub(at + 2, at + 9)
  local record = redis.call('HGET', this .. hash, field)
  found[#found + 1] = record and '1' or '0'
  found[#found + 1] = record or redis.call('HGET', before .. hash, field) or NOTHING
end
return table.concat(found)
