#!lua flags=allow-oom
-- Remembers what was seen of contacts.
--
-- KEYS  1 profiles:G:N without N, of this generation
-- ARGV  1 when the generation is forgotten (epoch seconds)   2 the fields that a hash may have
--       3 places and what to remember, PLACE_BYTES and PROFILE_BYTES each: 2 say which hash, 8 are the field in it;
--         what to remember begins with the time it was received (6 bytes, ms)
-- Returns nothing.
--
-- allow-oom: it takes little memory, and bounded. Were it refused, every message would give handlers the same news.
-- constants PLACE_BYTES PROFILE_BYTES
-- include ingest/store/checks.lua
local prefix, ends, most = KEYS[1], string.format('%d', whole(ARGV[1])), whole(ARGV[2])
if #ARGV[3] % (PLACE_BYTES + PROFILE_BYTES) ~= 0 then
  error('not places and records')
end

for at = 1, #ARGV[3], PLACE_BYTES + PROFILE_BYTES do
  local key = prefix .. struct.unpack('>I2', ARGV[3], at)
  local from = at + PLACE_BYTES
  local field, record = ARGV[3]:sub(at + 2, from - 1), ARGV[3]:sub(from, from + PROFILE_BYTES - 1)
  local known = redis.call('HGET', key, field)
  if not known then
    local fields = redis.call('HLEN', key)
    if fields >= most then
      redis.call('HDEL', key, redis.call('HRANDFIELD', key))
    end
    redis.call('HSET', key, field, record)
    if fields == 0 then
      redis.call('EXPIREAT', key, ends)
    end
  -- Another worker may have seen a later message of the contact, found by its other place. Strings are not compared
  -- with `<`: its order depends on the server's locale.
  elseif struct.unpack('>I6', known) <= struct.unpack('>I6', record) then
    redis.call('HSET', key, field, record)
  end
end
