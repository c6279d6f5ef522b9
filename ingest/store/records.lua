-- Records, for scripts that need more of one than its header (ingest/store/records.py has the same for Python).
-- constants HEADER_BYTES DIGEST_BYTES HAS_DIGEST HANDLER_BYTES SHARES_BITS

-- The body of a record, and the digest before it as hex, or nil.
local function body_of(record)
  local from = HEADER_BYTES + 1
  if record:byte(HEADER_BYTES) ~= HAS_DIGEST then
    return record:sub(from)
  end
  local none = string.rep('\0', DIGEST_BYTES)
  local digest = record:sub(from, from + DIGEST_BYTES - 1)
  from = from + DIGEST_BYTES
  if digest == none then -- it has more to say
    digest = record:sub(from, from + DIGEST_BYTES - 1)
    local length, begin = struct.unpack('>I4', record, from + DIGEST_BYTES)
    from = begin + length % 2 ^ SHARES_BITS -- above it: `waits`
    from = from + 2 + HANDLER_BYTES * record:byte(from) -- handlers that are done
  end
  if digest == none then
    return record:sub(from)
  end
  return record:sub(from), (digest:gsub('.', function(c) return string.format('%02x', c:byte()) end))
end
