-- GETs, 16 at once on each connection. wrk measures the latency of the 16 together.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

local DEPTH = 16
local batch = {}

lib.install({
  statuses = { 200 },
  next_request = function()
    for i = 1, DEPTH do batch[i] = lib.get(lib.random_key()) end
    return table.concat(batch)
  end,
})
