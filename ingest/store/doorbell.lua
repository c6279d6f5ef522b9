-- Wakes one idle worker of a lane; take.lua wakes the next. Uses the local wa of the script that includes it.
local function ring(lane)
  local doorbell = wa .. 'doorbell:' .. lane
  if redis.call('LLEN', doorbell) == 0 then
    redis.call('RPUSH', doorbell, 1)
  end
end
