-- Owns: what all scripts share: the threads' key spaces, the requests' text, the counting of statuses, the summary.
-- Never: which requests are sent.
--
-- wrk runs a script once a thread, each in a Lua state of its own, and once more for setup() and done(). It sends what
-- request() gives on any of the thread's connections, and does not tell response() which request was answered: a
-- script therefore says which statuses are right for all of its requests.
--
-- Settings, from the environment; run.sh sets them:
--   DKV_BENCH_KEYS         a file with a key a line, of letters, digits and ":-._~" only
--   DKV_BENCH_VALUE_BYTES  the length of the values that are written (100)
--   DKV_BENCH_CHECK        "no": leave response() out, which costs wrk more time than the request; wrk then counts
--                          only what is above 399

local lib = {}
local threads = {}
local value = string.rep("v", tonumber(os.getenv("DKV_BENCH_VALUE_BYTES") or "100"))

-- The keys of thread `id` of `count`: every count-th line, so that no two threads write the same key.
local function read_keys(id, count)
  local name = assert(os.getenv("DKV_BENCH_KEYS"), "DKV_BENCH_KEYS is not set: start the script by run.sh")
  local keys, line_number = {}, 0
  for line in assert(io.open(name)):lines() do
    if line_number % count == id then keys[#keys + 1] = line end
    line_number = line_number + 1
  end
  assert(#keys > 0, "fewer keys than threads")
  return keys
end

-- A thread's keys, once init() has run.
lib.keys = {}

function lib.random_key() return lib.keys[math.random(#lib.keys)] end

function lib.get(key) return wrk.format("GET", "/get?key=" .. key) end
function lib.set(key) return wrk.format("PUT", "/set?key=" .. key, nil, value) end
function lib.update(key) return wrk.format("POST", "/update?key=" .. key, nil, value) end
function lib.delete(key) return wrk.format("DELETE", "/delete?key=" .. key) end

-- Numbers 1..n, small ones often: the k-th is drawn in proportion to 1 / k^theta. By the way of Gray et al., "Quickly
-- generating billion-record synthetic databases" (1994), which needs one power a draw.
function lib.zipf(n, theta)
  local zeta = 0
  for k = 1, n do zeta = zeta + 1 / k ^ theta end
  local alpha, second = 1 / (1 - theta), 1 + 0.5 ^ theta
  local eta = (1 - (2 / n) ^ (1 - theta)) / (1 - second / zeta)
  return function()
    local u = math.random()
    if u * zeta < 1 then return 1 end
    if u * zeta < second then return math.min(2, n) end
    return math.min(n, 1 + math.floor(n * (eta * u - eta + 1) ^ alpha))
  end
end

-- Prints a line a status, and which were wrong.
local function tell_statuses(right)
  local total, wrong, counts = 0, 0, {}
  for _, thread in ipairs(threads) do
    for status, n in pairs(thread:get("statuses")) do counts[status] = (counts[status] or 0) + n end
  end
  for status, n in pairs(counts) do
    total = total + n
    if right[status] then
      print(string.format("  status %d: %d", status, n))
    else
      wrong = wrong + n
      print(string.format("  status %d: %d   <-- not what this script asks for", status, n))
    end
  end
  return total, wrong
end

-- Installs wrk's functions. `next_request` gives the text of one request, or of several that are sent at once;
-- `started`, if given, runs in each thread when its keys are known; `statuses` lists the right ones.
function lib.install(options)
  local right = {}
  for _, status in ipairs(options.statuses) do right[status] = true end
  local checks = os.getenv("DKV_BENCH_CHECK") ~= "no"

  function setup(thread)
    thread:set("thread_id", #threads)
    thread:set("thread_count", tonumber(os.getenv("DKV_BENCH_THREADS") or "1"))
    threads[#threads + 1] = thread
  end

  function init()
    statuses = {}
    math.randomseed(1000 + thread_id)
    lib.keys = read_keys(thread_id, thread_count)
    if options.started then options.started() end
  end

  request = options.next_request

  if checks then
    function response(status) statuses[status] = (statuses[status] or 0) + 1 end
  end

  function done(summary, latency)
    local failed = {}
    local told, wrong = 0, 0
    if checks then told, wrong = tell_statuses(right) end
    if wrong > 0 then failed[#failed + 1] = wrong .. " answers with a wrong status" end
    if not checks and summary.errors.status > 0 then
      failed[#failed + 1] = summary.errors.status .. " answers with a status above 399"
    end
    for _, kind in ipairs({ "connect", "read", "write", "timeout" }) do
      local n = summary.errors[kind]
      if n > 0 then failed[#failed + 1] = n .. " " .. kind .. " errors" end
    end
    if summary.requests == 0 or (checks and told == 0) then failed[#failed + 1] = "no answer at all" end
    print(string.format("  p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms; %.0f requests/s",
      latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency:percentile(99.9) / 1000,
      latency.max / 1000, summary.requests / (summary.duration / 1000000)))
    if #failed > 0 then
      print("ERRORS: " .. table.concat(failed, ", ") .. ". The figures above are of no use.")
    else
      print(checks and "no errors: every status was checked" or "no errors: statuses above 399 were looked for")
    end
  end
end

return lib
