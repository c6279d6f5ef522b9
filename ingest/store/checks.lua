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

local job_fields, varying -- of the template, and the places of those that differ from job to job

local function read_template(template)
  local fields, places = cjson.decode(text(template)), {}
  if type(fields) ~= 'table' or #fields == 0 or #fields % 2 == 1 then
    error('not a job')
  end
  for place, field in ipairs(fields) do
    if text(field):find('_%u+_') then
      places[#places + 1] = place
    end
  end
  job_fields, varying = fields, places
end

-- The fields of a batch's job, made from the template (ingest/store/jobs.py), which is read once: a call may write a job
-- for each of dozens of queues.
local function job_of(template, id, queue, now)
  if not job_fields then
    read_template(template)
  end
  local fields, values = { unpack(job_fields) }, { _ID_ = id, _QUEUE_ = queue, _NOW_ = text(now) }
  for _, place in ipairs(varying) do
    fields[place] = fields[place]:gsub('_%u+_', values)
  end
  return fields
end
