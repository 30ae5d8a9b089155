-- POST /update of keys that exist, all equally often; the value is the body.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

lib.install({
  statuses = { 200 },
  next_request = function() return lib.update(lib.random_key()) end,
})
