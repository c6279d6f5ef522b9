#!lua flags=no-writes
-- Reads what was last seen of contacts.
--
-- KEYS  1 profiles:G:N without N, of this generation   2 profiles:G:N without N, of the generation before
-- ARGV  1 places of contacts, PLACE_BYTES each: 2 say which hash, 8 are the field in it
-- Returns for each a byte, 1 if it was found in this generation, else 0; then its record of PROFILE_BYTES, zeros if
-- there is none.
-- constants PLACE_BYTES PROFILE_BYTES
local this, before = unpack(KEYS)
local NOTHING = ('\0'):rep(PROFILE_BYTES)

local found = {}
for at = 1, #ARGV[1], PLACE_BYTES do
  local hash, field = struct.unpack('>I2', ARGV[1], at), ARGV[1]:sub(at + 2, at + PLACE_BYTES - 1)
  local record = redis.call('HGET', this .. hash, field)
  found[#found + 1] = record and '1' or '0'
  found[#found + 1] = record or redis.call('HGET', before .. hash, field) or NOTHING
end
return table.concat(found)
