"""The Lua of the catalogue, under the laws that redis_scripts tells."""

from __future__ import annotations

from nestvec.adapters.redis_scripts import Script

# KEYS: primary. ARGV: server, least epoch, the highest epoch that the caller knows of. Returns the
# epoch in which this server writes, or -1 when none is left. A count below what the caller knows
# went back with a lost tail: then nothing that it says of this server is trusted. It always writes,
# so that WAIT has something to wait for. Must work in a full store: deleting comes after it.
REGISTER = Script(
    r"""
local count = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
local epoch = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
local least, known = tonumber(ARGV[2]), tonumber(ARGV[3])
local sound = epoch > 0 and epoch >= least and count >= known
if not sound then
  epoch = math.max(count + 1, least, known + 1)
  count = epoch
end
if epoch > 65535 then return -1 end
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], ARGV[1], epoch, 'epoch', count)
if not sound and redis.call('HLEN', KEYS[1]) > 4096 then
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    if (tonumber(all[at + 1]) or 0) <= epoch - 2048 then redis.call('HDEL', KEYS[1], all[at]) end
  end
end
return epoch
"""
)

# KEYS: format, collections, assets. ARGV: format version, name, record, then name, bytes an asset.
# Returns 1, 0 when the name is taken, or the namespace's format when that is another one.
CREATE = Script(
    """
local format = redis.call('GET', KEYS[1])
if format and format ~= ARGV[1] then return format end
if redis.call('HEXISTS', KEYS[2], ARGV[2]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
for at = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
"""
)

# KEYS: collections, assets. ARGV: name, generation, record, how many assets to drop, their names,
# then name, bytes an asset to add. Returns 1, or 0 when there is another generation or none.
# Without assets to add it is not refused for lack of memory.
UPDATE = Script(
    """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if not record or cjson.decode(record).generation ~= tonumber(ARGV[2]) then return 0 end
redis.call('HLEN', KEYS[2])
local added = 5 + tonumber(ARGV[4])
if added > #ARGV then redis.call('HDEL', KEYS[1], '') end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for at = 5, added - 1 do redis.call('HDEL', KEYS[2], ARGV[at]) end
for at = added, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
return 1
"""
)

# KEYS: collections, dropping, assets. ARGV: name, generation, "name:generation".
# Another generation of the same name is left alone. HDEL comes first: it is never refused for lack
# of memory, and after it SADD is not either, so that a full store can be emptied.
LEAVE = Script(
    """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and cjson.decode(record).generation == tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('DEL', KEYS[3])
redis.call('SADD', KEYS[2], ARGV[3])
return 1
"""
)
