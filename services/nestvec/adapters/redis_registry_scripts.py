"""The Lua of the registry, under the laws that redis_scripts tells.

KEYS[1] opens all its keys:

    cluster       hash: name, protocol
    revision      rises with every change but that of facts
    incarnation   the last one given out
    leases        sorted set: name -> when it ends, milliseconds of this server's clock
    graced        set of names whose lease was lengthened and not renewed since
    pulse         hash: when a member or a watcher was last heard (at), which revision it then was
                  (revision), and how long a lease lasts (ttl, milliseconds)
    members       hash: name -> record; incarnations, facts: the same names
    assignments   hash: collection -> record
    promised      hash: "POOL/SHARDS/SHARD NAME:GENERATION" -> documents

Revisions and incarnations are the clock's microseconds or one more than the last: a server that
lost its last writes in a failover, or all it had, gives none out twice.

A lease ends by the time in which the registry can be reached. Members renew four times and watchers
look four times while a lease lasts. Where nobody was heard for most of that, it was the registry
that was away (it failed over, hung or was cut off), and whoever comes first and was there before
lengthens all leases once: otherwise every failover would empty the cluster. Who only looks, and
knows of nothing before, does not: for them what has ended is left out.
"""

from __future__ import annotations

from nestvec.adapters.redis_scripts import Script

# In a full store the first write must be one that frees something.
_COMMON = r"""
local base = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function key(name) return base .. name end
local function text(number) return string.format('%.0f', number) end
local function get(name, field) return redis.call('HGET', key(name), field) end
local function open() redis.call('DEL', key('nothing')) end
local function next_of(counter)
  local last = tonumber(redis.call('GET', key(counter)) or 0) or 0
  local value = text(math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('SET', key(counter), value)
  return value
end
local function changed() return next_of('revision') end
local function remove(name)
  redis.call('ZREM', key('leases'), name)
  redis.call('SREM', key('graced'), name)
  for _, hash in ipairs({'members', 'incarnations', 'facts'}) do
    redis.call('HDEL', key(hash), name)
  end
end
local function was_away()
  local ttl = tonumber(get('pulse', 'ttl') or 0) or 0
  local at = tonumber(get('pulse', 'at') or 0) or 0
  return ttl > 0 and at > 0 and math.abs(now - at) > 0.75 * ttl
end
local FORGIVEN = 600000
local function lengthen()
  local ttl = tonumber(get('pulse', 'ttl'))
  local leases = redis.call('ZRANGE', key('leases'), 0, -1, 'WITHSCORES')
  for at = 1, #leases, 2 do
    local name, ends = leases[at], tonumber(leases[at + 1])
    if ends > now - FORGIVEN and redis.call('SADD', key('graced'), name) == 1 then
      redis.call('ZADD', key('leases'), text(now + ttl), name)
    end
  end
end
-- Returns whether leases that have ended are gone now.
local function hear(known)
  if was_away() then
    if not known then return false end
    lengthen()
  end
  local gone = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', text(now))
  for _, name in ipairs(gone) do remove(name) end
  if #gone > 0 then changed() end
  local revision = redis.call('GET', key('revision')) or '0'
  redis.call('HSET', key('pulse'), 'at', text(now), 'revision', revision)
  return true
end
local function foreign(name, protocol)
  local theirs = get('cluster', 'name')
  if not theirs then return false end
  local other = get('cluster', 'protocol') or ''
  if (name == '' or theirs == name) and other == protocol then return false end
  return {theirs, other}
end
local function claim(name, protocol)
  if name ~= '' then redis.call('HSET', key('cluster'), 'name', name, 'protocol', protocol) end
end
"""

# ARGV: cluster, protocol. Returns nothing, or the cluster and the protocol that are here already.
FOUND = Script(
    _COMMON
    + r"""
local other = foreign(ARGV[1], ARGV[2])
if other then return other end
open()
claim(ARGV[1], ARGV[2])
return {}
"""
)

# ARGV: cluster or "", protocol, name, record, milliseconds of the lease. Returns the incarnation,
# or what FOUND returns.
JOIN = Script(
    _COMMON
    + r"""
local other = foreign(ARGV[1], ARGV[2])
if other then return other end
open()
claim(ARGV[1], ARGV[2])
hear(false)
local name = ARGV[3]
remove(name)
local incarnation = next_of('incarnation')
redis.call('HSET', key('members'), name, ARGV[4])
redis.call('HSET', key('incarnations'), name, incarnation)
redis.call('ZADD', key('leases'), text(now + tonumber(ARGV[5])), name)
redis.call('HSET', key('pulse'), 'ttl', ARGV[5])
if not get('pulse', 'at') then redis.call('HSET', key('pulse'), 'at', text(now)) end
changed()
return {incarnation}
"""
)

# ARGV: name, incarnation, record, facts, milliseconds, place or "", "1" where what it holds is
# promised from now on, then key, documents a collection. Returns 1, or 0 where the lease is lost.
# A collection that its facts no longer name has left this place.
RENEW = Script(
    _COMMON
    + r"""
local name = ARGV[1]
if get('incarnations', name) ~= ARGV[2] then return 0 end
open()
hear(true)
if get('incarnations', name) ~= ARGV[2] then return 0 end
redis.call('ZADD', key('leases'), text(now + tonumber(ARGV[5])), name)
redis.call('SREM', key('graced'), name)
if get('pulse', 'ttl') ~= ARGV[5] then redis.call('HSET', key('pulse'), 'ttl', ARGV[5]) end
if get('members', name) ~= ARGV[3] then
  redis.call('HSET', key('members'), name, ARGV[3])
  changed()
end
local before = get('facts', name)
if before ~= ARGV[4] then redis.call('HSET', key('facts'), name, ARGV[4]) end
if ARGV[6] == '' or ARGV[7] ~= '1' then return 1 end
local held = {}
for at = 8, #ARGV, 2 do
  held[ARGV[at]] = true
  local field = ARGV[6] .. ' ' .. ARGV[at]
  if get('promised', field) ~= ARGV[at + 1] then
    redis.call('HSET', key('promised'), field, ARGV[at + 1])
  end
end
local sound, old = pcall(cjson.decode, before or '{}')
if sound and type(old) == 'table' and type(old.documents) == 'table' then
  for one in pairs(old.documents) do
    if not held[one] then redis.call('HDEL', key('promised'), ARGV[6] .. ' ' .. one) end
  end
end
return 1
"""
)

# ARGV: name, incarnation.
LEAVE = Script(
    _COMMON
    + r"""
if get('incarnations', ARGV[1]) ~= ARGV[2] then return 0 end
open()
remove(ARGV[1])
changed()
return 1
"""
)

# ARGV: the revision that is known, or "". Returns the revision alone where it is that one; else
# the revision, who is there, and the hashes: members, incarnations, facts, assignments, promised.
# A view that leaves out what has ended and is still kept has a revision of its own.
VIEW = Script(
    _COMMON
    + r"""
local revision = redis.call('GET', key('revision')) or '0'
local known = ARGV[1] ~= '' and (ARGV[1] == revision or ARGV[1] == get('pulse', 'revision'))
open()
local whole = hear(known)
revision = redis.call('GET', key('revision')) or '0'
if whole and ARGV[1] == revision then return {revision} end
local there = redis.call('ZRANGEBYSCORE', key('leases'), '(' .. text(now), '+inf')
if #there < redis.call('ZCARD', key('leases')) then revision = text(tonumber(revision) - 1) end
local answer = {revision, there}
for _, hash in ipairs({'members', 'incarnations', 'facts', 'assignments', 'promised'}) do
  answer[#answer + 1] = redis.call('HGETALL', key(hash))
end
return answer
"""
)

# ARGV: collection, the expected record or "", the wanted one or "". Returns nothing, or the record
# that stands instead of the expected one.
ASSIGN = Script(
    _COMMON
    + r"""
local stands = get('assignments', ARGV[1]) or ''
if stands ~= ARGV[2] then return {stands} end
if stands == ARGV[3] then return {} end
open()
if ARGV[3] == '' then
  redis.call('HDEL', key('assignments'), ARGV[1])
else
  redis.call('HSET', key('assignments'), ARGV[1], ARGV[3])
end
changed()
return {}
"""
)

# ARGV: how the fields of a layout begin.
FORGET = Script(
    _COMMON
    + r"""
open()
for _, field in ipairs(redis.call('HKEYS', key('promised'))) do
  if string.sub(field, 1, #ARGV[1]) == ARGV[1] then redis.call('HDEL', key('promised'), field) end
end
changed()
return 1
"""
)

DISBAND = Script(
    _COMMON
    + r"""
for _, name in ipairs({
  'cluster', 'revision', 'incarnation', 'leases', 'graced', 'pulse', 'members', 'incarnations',
  'facts', 'assignments', 'promised',
}) do redis.call('DEL', key(name)) end
return 1
"""
)
