-- DELETE of keys that exist. So that there are always some, every second request sets a key again: the one that was
-- deleted half a round before, long enough ago that no connection still waits for that answer. A 404 is an error.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

local step = 0

lib.install({
  statuses = { 200, 201 },
  next_request = function()
    local at = math.floor(step / 2)
    local is_delete = step % 2 == 0
    step = step + 1
    if is_delete then return lib.delete(lib.keys[at % #lib.keys + 1]) end
    return lib.set(lib.keys[(at + math.floor(#lib.keys / 2)) % #lib.keys + 1])
  end,
})
