-- What a script asks of its arguments before it writes anything: Redis takes nothing back of what it has written when it
-- fails.
local function whole(value)
  local number = tonumber(value)
  if not number or number ~= math.floor(number) or number < 0 or number > 2 ^ 53 then
    error('not a whole number: ' .. tostring(value))
  end
  return number
end

local function finite(value)
  local number = tonumber(value)
  if not number or number ~= number or math.abs(number) > 2 ^ 53 then
    error('not a number: ' .. tostring(value))
  end
  return number
end

local function text(value)
  if type(value) ~= 'string' then
    error('not a text: ' .. tostring(value))
  end
  return value
end

-- The fields of a batch's job, made from the template (ingest/store/jobs.py).
local function job_of(template, id, queue, now)
  local fields = cjson.decode((text(template):gsub('_ID_', id):gsub('_QUEUE_', queue):gsub('_NOW_', text(now))))
  if type(fields) ~= 'table' or #fields == 0 or #fields % 2 == 1 then
    error('not a job')
  end
  for _, field in ipairs(fields) do
    text(field)
  end
  return fields
end
