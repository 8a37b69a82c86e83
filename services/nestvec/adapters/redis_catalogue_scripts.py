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

# KEYS: format, collections, assets, revision. ARGV: format version, name, record, then name and
# bytes of each asset. Returns 1, 0 when the name is taken, or the namespace's format when that is
# another one.
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
redis.call('HINCRBY', KEYS[4], 'catalogue', 1)
return 1
"""
)

# KEYS: collections, beside, assets, revision. ARGV: name, NAME@G, record, then name and bytes of
# each asset. Returns 1, or 0 when the name stands for nothing.
ADD = Script(
    """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
for at = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
end
redis.call('HINCRBY', KEYS[4], 'catalogue', 1)
return 1
"""
)

# KEYS: collections, assets, beside, revision. ARGV: name, generation, NAME@G, record, how many
# assets to drop, their names, then name, bytes an asset to add. Returns 1, or 0 when the catalogue
# does not have this generation. Without assets to add it is not refused for lack of memory.
UPDATE = Script(
    """
local hash, field = KEYS[1], ARGV[1]
local record = redis.call('HGET', hash, field)
if not record or cjson.decode(record).generation ~= tonumber(ARGV[2]) then
  hash, field = KEYS[3], ARGV[3]
  if redis.call('HEXISTS', hash, field) == 0 then return 0 end
end
redis.call('HLEN', KEYS[2])
local added = 6 + tonumber(ARGV[5])
if added > #ARGV then redis.call('HDEL', KEYS[1], '') end
redis.call('HSET', hash, field, ARGV[4])
for at = 6, added - 1 do redis.call('HDEL', KEYS[2], ARGV[at]) end
for at = added, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1]) end
redis.call('HINCRBY', KEYS[4], 'catalogue', 1)
return 1
"""
)

# KEYS: collections, dropping, assets, beside, revision. ARGV: name, generation, "name:generation",
# NAME@G. Another generation of the same name is left alone. HDEL comes first: it is never refused
# for lack of memory, and after it SADD is not either, so that a full store can be emptied.
LEAVE = Script(
    """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and cjson.decode(record).generation == tonumber(ARGV[2]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('HDEL', KEYS[4], ARGV[4])
redis.call('DEL', KEYS[3])
redis.call('SADD', KEYS[2], ARGV[3])
redis.call('HINCRBY', KEYS[5], 'catalogue', 1)
return 1
"""
)

# KEYS: collections, beside. ARGV: name, generation, NAME@G. Returns whether this generation is in
# the catalogue: in one step, since a switch moves it from one of the two to the other.
LISTS = Script(
    """
local record = redis.call('HGET', KEYS[1], ARGV[1])
if record and cjson.decode(record).generation == tonumber(ARGV[2]) then return 1 end
return redis.call('HEXISTS', KEYS[2], ARGV[3])
"""
)

# KEYS: revision, collections, beside, migrations. Returns the revision and all of each.
LISTING = Script(
    """
return {
  redis.call('HGET', KEYS[1], 'catalogue') or '0',
  redis.call('HGETALL', KEYS[2]),
  redis.call('HGETALL', KEYS[3]),
  redis.call('HGETALL', KEYS[4]),
}
"""
)

_STILL = """
local function is_still(migrations, claim, name, revision, owner)
  local record = redis.call('HGET', migrations, name)
  local standing = record and cjson.decode(record).revision or -1
  if standing ~= tonumber(revision) then return false end
  return owner == '' or redis.call('GET', claim) == owner
end
"""

# KEYS: migrations, claim, revision. ARGV: name, the revision that is expected (-1: none), owner or
# "", record. Returns 1, or 0 where the record is another one or the owner has no claim.
CHANGE = Script(
    _STILL
    + """
if not is_still(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('HINCRBY', KEYS[3], 'catalogue', 1)
return 1
"""
)

# KEYS: migrations, claim, revision, collections, beside. ARGV: as CHANGE, then the generation that
# serves, its NAME@G, and that of the one that shall. Returns 1 or 0 as CHANGE: 0 also where the
# catalogue does not have the two so. Moving records takes no memory worth a refusal.
SWITCH = Script(
    _STILL
    + """
if not is_still(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local old = redis.call('HGET', KEYS[4], ARGV[1])
local new = redis.call('HGET', KEYS[5], ARGV[7])
if not old or not new or cjson.decode(old).generation ~= tonumber(ARGV[5]) then return 0 end
redis.call('HDEL', KEYS[5], ARGV[7])
redis.call('HSET', KEYS[4], ARGV[1], new)
redis.call('HSET', KEYS[5], ARGV[6], old)
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
redis.call('HINCRBY', KEYS[3], 'catalogue', 1)
return 1
"""
)

# KEYS: claim. ARGV: owner, milliseconds. Returns 1, or 0 while another one has it.
CLAIM = Script(
    """
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
)

# KEYS: claim. ARGV: owner.
RELEASE = Script(
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
)
