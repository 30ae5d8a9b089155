-- PUT /set of keys that exist or not, all equally often; the value is the body.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

lib.install({
  statuses = { 200, 201 },
  next_request = function() return lib.set(lib.random_key()) end,
})
