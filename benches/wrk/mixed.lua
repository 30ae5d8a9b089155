-- Nine GETs to one PUT /set, of keys that exist, all equally often.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

lib.install({
  statuses = { 200 },
  next_request = function()
    local key = lib.random_key()
    if math.random(10) == 1 then return lib.set(key) end
    return lib.get(key)
  end,
})
