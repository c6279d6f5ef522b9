-- Posts messages, each with an id of its own. WRK_BODIES: a file of bodies of one length, one a line, whose ids are
-- replaced; WRK_FIRST: the first id, so that no two runs send the same one. Ends with a line of JSON.
local heads, tails, number = {}, {}, tonumber(os.getenv("WRK_FIRST"))
local start, total

function init()
  for body in io.lines(os.getenv("WRK_BODIES")) do
    local at = body:find("gBGG", 1, true) + 4
    start = wrk.format("POST", "/webhook", { ["Content-Type"] = "application/json" }, body)
    local head = #start - #body
    heads[#heads + 1] = start:sub(1, head + at - 1)
    tails[#tails + 1] = body:sub(at + 32)
  end
  total = #heads
end

function request()
  number = number + 1
  local n = number % total + 1
  return heads[n] .. string.format("%032X", number) .. tails[n]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
