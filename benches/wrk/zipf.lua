-- Nine GETs to one PUT /set; the k-th key is asked in proportion to 1 / k^0.99, as by YCSB: few keys get most of it.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local lib = dofile(here .. "lib.lua")

local draw

lib.install({
  statuses = { 200 },
  started = function() draw = lib.zipf(#lib.keys, 0.99) end,
  next_request = function()
    local key = lib.keys[draw()]
    if math.random(10) == 1 then return lib.set(key) end
    return lib.get(key)
  end,
})
