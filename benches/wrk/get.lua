-- GET of keys that exist, all equally often.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

lib.install({
  statuses = { 200 },
  next_request = function() return lib.get(lib.random_key()) end,
})
